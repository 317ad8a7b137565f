"""What KeyAuthorizations cover, and what their statuses say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from keyshred import names
from keyshred.envelope.format import Born, Envelope, Mechanism
from keyshred.names import Reason, Sealing
from keyshred.policy.authorizations import Policy
from keyshred.policy.conditions import Condition, Status
from keyshred.policy.coverage import Survey, conditions, next_expiry, types_of_interest, wanted_label
from keyshred.policy.resources import Authorization, RootKey, SecretMeta

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY_IDS = {"one": UUID(int=1), "two": UUID(int=2)}


def authorization(name: str, key: str = "one", **spec: Any) -> Authorization:
    ref = {"name": key, "keyID": str(KEY_IDS[key])}
    spec = {"rootKeyRef": ref, "namespaces": {"names": ["ns"]}} | spec
    return Authorization.parse({"metadata": {"name": name}, "spec": spec})


def root_key(name: str, state: str = "Active") -> RootKey:
    spec = {"keyID": str(KEY_IDS[name])}
    return RootKey.parse({"metadata": {"name": name, "uid": name}, "spec": spec, "status": {"state": state}})


def policy(*authorizations: Authorization, keys: tuple[RootKey, ...] | None = None) -> Policy:
    keys = (root_key("one"), root_key("two")) if keys is None else keys
    return Policy(
        own_namespace="keyshred",
        root_keys={k.name: k for k in keys},
        authorizations=authorizations,
        namespaces={n: {"keyshred.dev/sealing": "enabled"} for n in ("ns", "keyshred", "kube-system")},
    )


def envelope(key: str) -> Envelope:
    return Envelope(KEY_IDS[key], 1, Mechanism.AES_GCM, bytes(60), bytes(16), "ns", "s", Born.SEALED, NOW)


@pytest.mark.parametrize(
    ("namespace", "spec", "label"),
    [
        ("ns", {}, Sealing.ENABLED),
        ("ns", {"operations": ["Unseal"]}, Sealing.RETAINED),
        ("ns", {"expirationTime": "2026-03-01T12:00:00Z"}, None),
        ("other", {}, None),
        ("keyshred", {"namespaces": {"selector": {}}}, None),
        ("kube-system", {"namespaces": {"selector": {}}}, None),
    ],
)
def test_wanted_label(namespace: str, spec: dict[str, Any], label: Sealing | None) -> None:
    assert wanted_label(policy(authorization("a", **spec)), namespace, {}, NOW) is label


def test_sealing_wins_over_unsealing_alone() -> None:
    both = policy(authorization("a", operations=["Unseal"]), authorization("b"))
    assert wanted_label(both, "ns", {}, NOW) is Sealing.ENABLED


def test_a_key_that_is_not_there_does_not_open_the_namespace() -> None:
    assert wanted_label(policy(authorization("a"), keys=()), "ns", {}, NOW) is Sealing.ENABLED


def test_next_expiry() -> None:
    at = [NOW - timedelta(hours=1), NOW, NOW + timedelta(hours=2), NOW + timedelta(hours=1)]
    given = [authorization("a", expirationTime=t.isoformat()) for t in at] + [authorization("b")]
    assert next_expiry(given, NOW) == NOW + timedelta(hours=1)
    assert next_expiry([authorization("b")], NOW) is None


def test_types_of_interest() -> None:
    given = authorization("a", secrets={"types": ["x"], "exclude": {"types": ["y"]}})
    assert types_of_interest([given]) == {"kubernetes.io/tls", "x", "y"}


def test_survey_counts_what_is_sealed_under_its_key() -> None:
    survey = Survey(policy(authorization("a"), authorization("b", "two")), NOW)
    survey.namespace("ns", {})
    survey.secret("ns", SecretMeta("s", "(other)", {}), envelope("one"))
    survey.secret("ns", SecretMeta("t", "kubernetes.io/tls", {}), None)
    a, b = (survey.of(x) for x in survey.policy.authorizations)
    assert (a.namespaces, a.sealed, a.unsealed) == (1, 1, [])
    assert (b.namespaces, b.sealed) == (1, 0)


@pytest.mark.parametrize(
    ("labels", "unsealed", "conflicts"),
    [
        ({}, ("ns/s", "ns/s"), ("ns/s", "ns/s")),
        ({"keyshred.dev/root-key": "one"}, ("ns/s", ""), ("", "")),
        # A label that names a third key decides nothing.
        ({"keyshred.dev/root-key": "three"}, ("ns/s", "ns/s"), ("ns/s", "ns/s")),
    ],
)
def test_the_label_decides_between_two_keys(
    labels: dict[str, str], unsealed: tuple[str, str], conflicts: tuple[str, str]
) -> None:
    survey = Survey(policy(authorization("a"), authorization("b", "two")), NOW)
    survey.secret("ns", SecretMeta("s", "(other)", labels), None)
    reports = [survey.of(x) for x in survey.policy.authorizations]
    assert tuple("".join(r.unsealed) for r in reports) == unsealed
    assert tuple("".join(r.conflicts) for r in reports) == conflicts


def test_a_label_for_a_key_that_nobody_authorised_hides_nothing() -> None:
    survey = Survey(policy(authorization("a")), NOW)
    survey.secret("ns", SecretMeta("s", "(other)", {"keyshred.dev/root-key": "three"}), None)
    assert survey.of(survey.policy.authorizations[0]).unsealed == ["ns/s"]


def test_what_another_key_sealed_is_named() -> None:
    survey = Survey(policy(authorization("a")), NOW)
    survey.secret("ns", SecretMeta("s", "(other)", {}), envelope("one"))
    survey.secret("ns", SecretMeta("t", "(other)", {}), envelope("two"))
    given = survey.policy.authorizations[0]
    report = survey.of(given)
    assert (report.sealed, report.foreign) == (1, ["ns/t"])
    ready, sealing = conditions(survey.policy, given, report, NOW)
    assert (ready.status, ready.reason) == (Status.TRUE, Reason.AUTHORIZED)
    assert "1 of them under another key than that of the RootKey one: ns/t" in ready.message
    assert sealing.status is Status.FALSE


@pytest.mark.parametrize(
    ("label", "operations", "status"),
    [
        ("enabled", ["Seal", "Unseal"], Status.TRUE),
        ("retained", ["Seal", "Unseal"], Status.FALSE),
        (None, ["Seal", "Unseal"], Status.FALSE),
        ("retained", ["Unseal"], Status.TRUE),
        (None, ["Unseal"], Status.FALSE),
    ],
)
def test_not_ready_before_the_namespace_carries_the_label(
    label: str | None, operations: list[str], status: Status
) -> None:
    labels = {"keyshred.dev/sealing": label} if label else {}
    world = replace(policy(authorization("a", operations=operations)), namespaces={"ns": labels})
    survey = Survey(world, NOW)
    survey.namespace("ns", labels)
    given = world.authorizations[0]
    ready = conditions(world, given, survey.of(given), NOW)[0]
    assert ready.status is status
    if status is Status.FALSE:
        assert ready.reason == Reason.SEALING and "do not carry the label" in ready.message and "ns" in ready.message


def test_names_of_namespaces_that_mean_nothing_are_told() -> None:
    world = policy(authorization("a", namespaces={"names": ["ns", "missing", "keyshred"]}))
    message = conditions(world, world.authorizations[0], Survey(world, NOW).of(world.authorizations[0]), NOW)[0].message
    assert "do not exist: missing" in message and "nothing is ever sealed: keyshred" in message


def test_an_authorization_that_only_unseals_claims_no_sealing() -> None:
    survey = Survey(policy(authorization("a", operations=["Unseal"])), NOW)
    survey.secret("ns", SecretMeta("s", "(other)", {}), None)
    given = survey.policy.authorizations[0]
    ready = conditions(survey.policy, given, survey.of(given), NOW)[0]
    assert ready.status is Status.TRUE and "every Secret" not in ready.message


def test_two_authorizations_for_one_key_are_no_conflict() -> None:
    survey = Survey(policy(authorization("a"), authorization("b")), NOW)
    survey.secret("ns", SecretMeta("s", "(other)", {}), None)
    assert not survey.of(survey.policy.authorizations[0]).conflicts


def shown(given: Authorization, *others: Authorization, keys: tuple[RootKey, ...] | None = None) -> list[Condition]:
    survey = Survey(policy(given, *others, keys=keys), NOW)
    survey.secret("ns", SecretMeta("s", "(other)", {}), None if others else envelope("one"))
    return conditions(survey.policy, given, survey.of(given), NOW)


@pytest.mark.parametrize(
    ("given", "others", "keys", "status", "reason"),
    [
        (authorization("a"), (), None, Status.TRUE, Reason.AUTHORIZED),
        (authorization("a"), (), (), Status.FALSE, Reason.ROOT_KEY_NOT_FOUND),
        (replace(authorization("a"), key_id=UUID(int=9)), (), None, Status.FALSE, Reason.ROOT_KEY_NOT_FOUND),
        (authorization("a"), (), (root_key("one", "PreActivation"),), Status.FALSE, Reason.ROOT_KEY_NOT_ACTIVE),
        (authorization("a", expirationTime="2026-01-01T00:00:00Z"), (), None, Status.FALSE, Reason.EXPIRED),
        (authorization("a"), (authorization("b", "two"),), None, Status.FALSE, Reason.CONFLICT),
        (authorization("a"), (authorization("b"),), None, Status.FALSE, Reason.SEALING),
    ],
)
def test_ready(
    given: Authorization,
    others: tuple[Authorization, ...],
    keys: tuple[RootKey, ...] | None,
    status: Status,
    reason: Reason,
) -> None:
    ready = shown(given, *others, keys=keys)[0]
    assert (ready.type, ready.status, ready.reason) == (names.Condition.READY, status, reason)


def test_a_conflict_names_the_other_one() -> None:
    assert shown(authorization("a"), authorization("b", "two"))[0].message.startswith("b means the same Secrets")


def test_sealing_names_a_few() -> None:
    survey = Survey(policy(authorization("a")), NOW)
    for n in range(7):
        survey.secret("ns", SecretMeta(f"s{n}", "(other)", {}), None)
    given = survey.policy.authorizations[0]
    sealing = conditions(survey.policy, given, survey.of(given), NOW)[1]
    assert sealing.status is Status.TRUE
    assert "7 (ns/s0, ns/s1, ns/s2, ns/s3, ns/s4 and 2 more)" in sealing.message
    assert "`kubectl patch secret NAME -n NAMESPACE -p '{}'`" in sealing.message
