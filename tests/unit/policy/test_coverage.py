"""What KeyAuthorizations cover, and what is to be done about it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from keyshred.envelope.format import Born
from keyshred.names import Sealing
from keyshred.policy.authorizations import Policy
from keyshred.policy.coverage import (
    IMMUTABLE,
    Chore,
    Named,
    Place,
    Refusal,
    Refusals,
    Report,
    Survey,
    Task,
    next_expiry,
    wanted_label,
)
from keyshred.policy.found import Found, Hindrance, Holder, Sealed, When
from keyshred.policy.resources import Authorization, RootKey
from keyshred.policy.selectors import Labels

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


def found(key: str | None = None, *, kind: str = "Opaque", labels: Labels | None = None, keys: int = 1) -> Found:
    sealed = Sealed(KEY_IDS[key], 1, Born.SEALED, NOW) if key else None
    return Found(kind, labels or {}, keys, sealed, going=False, perhaps_immutable=False, version="7")


def survey_of(
    world: Policy,
    secrets: Mapping[str, Found],
    *,
    refusals: Refusals | None = None,
    holders: Mapping[str, Holder] | None = None,
) -> Survey:
    """A survey of the namespace `ns` and these Secrets."""
    survey = Survey(world, NOW, refusals or {})
    site = survey.enter("ns", world.namespaces["ns"], Place(secrets, holders or {}))
    for name, secret in secrets.items():
        site.secret(name, secret)
    return survey


def first_report(survey: Survey) -> Report:
    return survey.report(survey.policy.authorizations[0])


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


def test_survey_counts_what_is_sealed_under_its_key() -> None:
    world = policy(authorization("a"), authorization("b", "two"))
    secrets = {"s": found("one"), "t": found(kind="kubernetes.io/tls"), "empty": found(keys=0)}
    a, b = (survey_of(world, secrets).report(x) for x in world.authorizations)
    assert (a.namespaces, a.sealed, a.unsealed) == (1, 1, [])
    assert (b.namespaces, b.sealed, b.foreign) == (1, 0, ["ns/s"])


@pytest.mark.parametrize(
    ("labels", "unsealed", "conflicts", "sealed_by"),
    [
        ({}, ("ns/s", "ns/s"), ("ns/s", "ns/s"), []),
        ({"keyshred.dev/root-key": "one"}, ("ns/s", ""), ("", ""), ["one"]),
        # A label that names a third key decides nothing.
        ({"keyshred.dev/root-key": "three"}, ("ns/s", "ns/s"), ("ns/s", "ns/s"), []),
    ],
)
def test_the_label_decides_between_two_keys(
    labels: dict[str, str], unsealed: tuple[str, str], conflicts: tuple[str, str], sealed_by: list[str]
) -> None:
    survey = survey_of(policy(authorization("a"), authorization("b", "two")), {"s": found(labels=labels)})
    reports = [survey.report(x) for x in survey.policy.authorizations]
    assert tuple("".join(r.unsealed) for r in reports) == unsealed
    assert tuple("".join(r.conflicts) for r in reports) == conflicts
    assert [t.root_key for t in survey.tasks] == sealed_by


def test_a_label_for_a_key_that_nobody_authorised_hides_nothing() -> None:
    survey = survey_of(policy(authorization("a")), {"s": found(labels={"keyshred.dev/root-key": "three"})})
    assert first_report(survey).unsealed == ["ns/s"]


def test_two_authorizations_for_one_key_are_no_conflict() -> None:
    survey = survey_of(policy(authorization("a"), authorization("b")), {"s": found()})
    assert not first_report(survey).conflicts
    assert survey.tasks == [Task(Chore.SEAL, "ns", "s", "7", "one")]


@pytest.mark.parametrize(
    ("world", "task"),
    [
        (policy(authorization("a")), True),
        (policy(authorization("a"), keys=(root_key("one", "PreActivation"),)), False),
        (policy(authorization("a"), keys=()), False),
        (replace(policy(authorization("a")), held={"ns": frozenset({"s"})}), False),
        (replace(policy(authorization("a")), held={"ns": frozenset({"*"})}), False),
        (replace(policy(authorization("a")), namespaces={"ns": {"keyshred.dev/sealing": "retained"}}), False),
        (policy(authorization("a", operations=["Unseal"])), False),
        (policy(authorization("a", mode="Release")), False),
        (policy(authorization("a", secrets={"exclude": {"names": ["s"]}})), False),
    ],
)
def test_what_is_sealed_by_the_sweep(world: Policy, task: bool) -> None:
    assert survey_of(world, {"s": found()}).tasks == ([Task(Chore.SEAL, "ns", "s", "7", "one")] if task else [])


def test_held_secrets_name_who_reads_them() -> None:
    world = replace(policy(authorization("a")), held={"ns": frozenset({"s"})})
    pods = {f"p{n}": Holder(frozenset({"s"}), "Deployment web") for n in range(2)}
    others = {f"q{n}": Holder(frozenset({"s"}), f"Job j{n}") for n in range(3)}
    report = first_report(survey_of(world, {"s": found(), "t": found()}, holders=pods | others))
    assert report.unsealed == ["ns/t"]
    assert [(h.namespace, h.name) for h in report.held] == [("ns", "s")]
    assert "Deployment web (2 pods), Job j0 (1 pod), Job j1 (1 pod) and 1 more: restart" in report.held[0].reason


def test_while_a_namespace_settles_all_wait_and_none_is_listed() -> None:
    world = replace(policy(authorization("a")), held={"ns": frozenset({"*"})})
    report = first_report(survey_of(world, {"s": found(), "t": found("one")}))
    assert (report.settling, report.waiting, report.held, report.sealed) == (["ns"], 1, [], 1)
    assert not report.complete


def test_too_many_names_to_hold_are_told_apart_from_settling() -> None:
    world = replace(policy(authorization("a")), held={"ns": frozenset({"*"})})
    names = frozenset(f"s{n}" for n in range(2001))
    for refers in (names, frozenset(f"{n:0253}" for n in range(600))):
        report = first_report(survey_of(world, {}, holders={"p": Holder(refers, "Pod p")}))
        assert (report.settling, report.crowded) == ([], ["ns"])
    # What is sealed already is not held.
    report = first_report(survey_of(world, {"s0": found("one")}, holders={"p": Holder(names, "Pod p")}))
    assert (report.settling, report.crowded) == (["ns"], [])


def test_what_is_being_deleted_is_left_alone() -> None:
    survey = survey_of(policy(authorization("a")), {"s": found()._replace(going=True)})
    assert survey.tasks == [] and "being deleted" in first_report(survey).unsealable[0].reason


@pytest.mark.parametrize("version", ["7", "6"])
def test_what_was_refused_is_not_tried_again_until_it_changes(version: str) -> None:
    refusals = {("ns", "s"): Refusal(version, "too large")}
    survey = survey_of(policy(authorization("a")), {"s": found()}, refusals=refusals)
    assert (first_report(survey).unsealable == [Named("ns", "s", "too large")]) is (version == "7")
    assert bool(survey.tasks) is (version == "6")


@pytest.mark.parametrize(
    ("others", "sealed", "kept"),
    [([], 1, []), ([authorization("b")], 0, ["ns/s"]), ([authorization("b", "two")], 0, ["ns/s"])],
)
def test_release_leaves_what_others_seal(others: list[Authorization], sealed: int, kept: list[str]) -> None:
    survey = survey_of(policy(authorization("a", mode="Release"), *others), {"s": found("one"), "t": found()})
    report = first_report(survey)
    assert (report.sealed, report.kept) == (sealed, kept)
    assert [t.chore for t in survey.tasks if t.name == "s"] == ([] if kept else [Chore.RELEASE])


def test_release_under_another_key_is_none() -> None:
    survey = survey_of(policy(authorization("a", mode="Release")), {"s": found("two")})
    assert survey.tasks == [] and first_report(survey).foreign == ["ns/s"]


def test_nothing_is_released_under_a_key_that_may_not_unseal() -> None:
    world = policy(authorization("a", mode="Release"), keys=(root_key("one", "PreActivation"),))
    assert survey_of(world, {"s": found("one")}).tasks == []


def test_preview_tells_what_would_be() -> None:
    world = replace(policy(authorization("a", mode="Preview")), namespaces={"ns": {}})
    secrets = {
        "plain": found(),
        "read": found(),
        "wide": found(keys=4097),
        "sealed": found("one"),
        "fixed": found()._replace(perhaps_immutable=True),
        "known": found()._replace(perhaps_immutable=True),
        "mutable": found()._replace(perhaps_immutable=True),
    }
    refusals = {("ns", "known"): Refusal("7", IMMUTABLE), ("ns", "mutable"): Refusal("7", "")}
    survey = survey_of(world, secrets, refusals=refusals, holders={"p": Holder(frozenset({"read"}), "Pod p")})
    report = first_report(survey)
    assert (report.namespaces, report.sealed) == (1, 1)
    assert report.unsealed == ["ns/plain", "ns/fixed", "ns/mutable"]
    assert [h.name for h in report.held] == ["read"] and [u.name for u in report.unsealable] == ["wide", "known"]
    assert survey.tasks == [Task(Chore.PROBE, "ns", "fixed", "7", "one")]


@pytest.mark.parametrize("mode", ["Preview", "Release"])
def test_only_mode_enforce_wants_a_label(mode: str) -> None:
    assert wanted_label(policy(authorization("a", mode=mode)), "ns", {}, NOW) is None


def test_secrets_that_are_not_listed_yet_are_unknown() -> None:
    survey = Survey(policy(authorization("a")), NOW)
    survey.enter("ns", {}, Place(None, None))
    assert first_report(survey).unknown == ["ns"]


def test_who_else_needs_a_secret_is_named_with_the_reason() -> None:
    holders = {
        "Pod/web-1": Holder(frozenset({"s"}), "Deployment web"),
        "Pod/web-2": Holder(frozenset({"s"}), "Deployment web"),
        "Ingress/web": Holder(frozenset({"s", "tls"}), "Ingress web", "its controller reads it"),
    }
    survey = survey_of(policy(authorization("a", mode="Preview")), {"s": found(), "tls": found()}, holders=holders)
    told = {item.name: item.reason for item in first_report(survey).held}
    restart = "read natively by Deployment web (2 pods): restart them, and it is sealed"
    assert told == {
        "s": f"{restart}; Ingress web: its controller reads it",
        "tls": "Ingress web: its controller reads it",
    }


MIXED = Hindrance("s", When.ALWAYS, "mixed")
DRIVER = Hindrance("s", When.SEALED, "a driver")
LATE = Hindrance("s", When.ABSENT, "not there")


@pytest.mark.parametrize("hindrance", [MIXED, DRIVER])
@pytest.mark.parametrize("mode", ["Preview", "Enforce"])
def test_what_a_new_pod_would_be_refused_for_is_not_cured_by_a_restart(mode: str, hindrance: Hindrance) -> None:
    holders = {
        "Pod/web-1": Holder(frozenset({"s", "t"}), "Deployment web"),
        "Pod/db": Holder(frozenset({"s"}), "Pod db"),
        "Deployment/web": Holder(frozenset({"s"}), "Deployment web", "", (hindrance,)),
    }
    world = replace(policy(authorization("a", mode=mode)), held={"ns": frozenset({"s", "t"})})
    report = first_report(survey_of(world, {"s": found(), "t": found()}, holders=holders))
    assert {item.name: item.reason for item in report.held} == {
        "s": "read natively by Pod db (1 pod): restart them, and it is sealed; "
        f"Deployment web: a pod made anew would be refused: {hindrance.words}",
        "t": "read natively by Deployment web (1 pod): restart them, and it is sealed",
    }
    assert report.broken == []


@pytest.mark.parametrize(
    ("hindrance", "secrets", "spec", "broken"),
    [
        (MIXED, {"s": found(kind="kubernetes.io/tls")}, {}, True),
        (MIXED, {"s": found(kind="kubernetes.io/dockerconfigjson")}, {}, True),
        (MIXED, {"s": found(labels={"a": "b"})}, {"exclude": {"selector": {"matchLabels": {"a": "b"}}}}, True),
        (MIXED, {"s": found("two")}, {}, True),
        (MIXED, {"s": found(keys=0)}, {}, True),
        (MIXED, {"s": found(keys=4097)}, {}, True),
        (MIXED, {}, {}, True),
        (MIXED, {"s": found()}, {"exclude": {"names": ["s"]}}, False),
        # Held instead.
        (MIXED, {"s": found()}, {}, False),
        # The driver goes on reading what is not sealed.
        (DRIVER, {"s": found(kind="kubernetes.io/tls")}, {}, False),
        (LATE, {}, {}, True),
        (LATE, {"s": found(kind="kubernetes.io/tls")}, {}, False),
        (LATE, {}, {"exclude": {"names": ["s"]}}, False),
    ],
)
def test_preview_tells_what_breaks_without_being_sealed(
    hindrance: Hindrance, secrets: Mapping[str, Found], spec: dict[str, Any], broken: bool
) -> None:
    holders = {"Job/j": Holder(frozenset({"s"} if hindrance != LATE else ()), "Job j", "", (hindrance,))}
    for mode in ("Preview", "Enforce"):
        world = policy(authorization("a", mode=mode, secrets=spec))
        told = first_report(survey_of(world, secrets, holders=holders)).broken
        expected = [Named("ns", "s", f"Job j: a pod made anew would be refused: {hindrance.words}")]
        assert told == (expected if broken and mode == "Preview" else [])


def test_preview_says_nothing_before_all_is_listed() -> None:
    for mode, unknown in (("Preview", ["ns"]), ("Enforce", [])):
        survey = Survey(policy(authorization("a", mode=mode)), NOW)
        survey.enter("ns", {}, Place({}, None))
        assert first_report(survey).unknown == unknown
