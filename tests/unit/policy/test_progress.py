"""What the status of a KeyAuthorization says."""

from dataclasses import replace
from uuid import UUID

import pytest

from keyshred import names
from keyshred.names import Reason
from keyshred.policy.authorizations import Policy
from keyshred.policy.conditions import Condition, Status
from keyshred.policy.coverage import Named, Place, Report, Survey
from keyshred.policy.progress import conditions, status
from keyshred.policy.resources import Authorization, RootKey
from tests.unit.policy.test_coverage import NOW, authorization, found, policy, root_key, survey_of


def shown(world: Policy, report: Report | None = None, trouble: str = "") -> list[Condition]:
    return conditions(world, world.authorizations[0], report or Report(), NOW, trouble)


@pytest.mark.parametrize(
    ("label", "operations", "expected"),
    [
        ("enabled", ["Seal", "Unseal"], Status.TRUE),
        ("retained", ["Seal", "Unseal"], Status.FALSE),
        (None, ["Seal", "Unseal"], Status.FALSE),
        ("retained", ["Unseal"], Status.TRUE),
        (None, ["Unseal"], Status.FALSE),
    ],
)
def test_not_ready_before_the_namespace_carries_the_label(
    label: str | None, operations: list[str], expected: Status
) -> None:
    labels = {"keyshred.dev/sealing": label} if label else {}
    world = replace(policy(authorization("a", operations=operations)), namespaces={"ns": labels})
    survey = Survey(world, NOW)
    survey.enter("ns", labels, Place({}, None))
    ready = shown(world, survey.report(world.authorizations[0]))[0]
    assert ready.status is expected
    if expected is Status.FALSE:
        assert ready.reason == Reason.SEALING and "do not carry the label" in ready.message and "ns" in ready.message


def test_names_of_namespaces_that_mean_nothing_are_told() -> None:
    world = policy(authorization("a", namespaces={"names": ["ns", "missing", "keyshred"]}))
    message = shown(world)[0].message
    assert "do not exist: missing" in message and "nothing is ever sealed: keyshred" in message


def test_an_authorization_that_only_unseals_claims_no_sealing() -> None:
    world = policy(authorization("a", operations=["Unseal"]))
    ready = shown(world, survey_of(world, {"s": found()}).report(world.authorizations[0]))[0]
    assert ready.status is Status.TRUE and "every Secret" not in ready.message


def test_what_another_key_sealed_is_named() -> None:
    world = policy(authorization("a"))
    report = survey_of(world, {"s": found("one"), "t": found("two")}).report(world.authorizations[0])
    ready, sealing = shown(world, report)
    assert (ready.status, ready.reason) == (Status.TRUE, Reason.AUTHORIZED)
    assert "1 of them under another key than that of the RootKey one: ns/t" in ready.message
    assert sealing.status is Status.FALSE


@pytest.mark.parametrize(
    ("given", "others", "keys", "expected", "reason"),
    [
        (authorization("a"), (), None, Status.TRUE, Reason.AUTHORIZED),
        (authorization("a"), (), (), Status.FALSE, Reason.ROOT_KEY_NOT_FOUND),
        (replace(authorization("a"), key_id=UUID(int=9)), (), None, Status.FALSE, Reason.ROOT_KEY_NOT_FOUND),
        (authorization("a"), (), (root_key("one", "PreActivation"),), Status.FALSE, Reason.ROOT_KEY_NOT_ACTIVE),
        (authorization("a", expirationTime="2026-01-01T00:00:00Z"), (), None, Status.FALSE, Reason.EXPIRED),
        (authorization("a"), (authorization("b", "two"),), None, Status.FALSE, Reason.CONFLICT),
        (authorization("a"), (authorization("b"),), None, Status.FALSE, Reason.SEALING),
        (authorization("a", mode="Preview"), (), None, Status.FALSE, Reason.PREVIEW),
        (authorization("a", mode="Preview"), (), (root_key("one", "PreActivation"),), Status.FALSE, Reason.PREVIEW),
        (authorization("a", mode="Release"), (), None, Status.FALSE, Reason.RELEASING),
        (authorization("a", mode="Release"), (authorization("b"),), None, Status.TRUE, Reason.RELEASED),
        (
            authorization("a", mode="Release"),
            (),
            (root_key("one", "PreActivation"),),
            Status.FALSE,
            Reason.ROOT_KEY_NOT_ACTIVE,
        ),
    ],
)
def test_ready(
    given: Authorization,
    others: tuple[Authorization, ...],
    keys: tuple[RootKey, ...] | None,
    expected: Status,
    reason: Reason,
) -> None:
    world = policy(given, *others, keys=keys)
    report = survey_of(world, {"s": found(None if others else "one")}).report(given)
    ready = shown(world, report)[0]
    assert (ready.type, ready.status, ready.reason) == (names.Condition.READY, expected, reason)


def test_a_conflict_names_the_other_one() -> None:
    world = policy(authorization("a"), authorization("b", "two"))
    report = survey_of(world, {"s": found()}).report(world.authorizations[0])
    assert shown(world, report)[0].message.startswith("b means the same Secrets")


def test_sealing_counts_names_a_few_and_tells_the_trouble() -> None:
    world = policy(authorization("a"))
    secrets = {f"s{n}": found() for n in range(7)} | {"t": found("one")}
    ready, sealing = shown(world, survey_of(world, secrets).report(world.authorizations[0]), "no webhook")
    assert sealing.status is Status.TRUE and ready.message == sealing.message
    assert sealing.message == (
        "1 of 8 Secrets are sealed; 7 are being sealed: ns/s0, ns/s1, ns/s2, ns/s3, ns/s4 and 2 more; "
        "last problem: no webhook"
    )


@pytest.mark.parametrize(
    "left",
    [
        Report(unsealed=["ns/s"]),
        Report(held=[Named("ns", "s", "read by Pod p")]),
        Report(unsealable=[Named("ns", "s", "too large")]),
        Report(settling=["ns"]),
        Report(crowded=["ns"]),
        Report(unknown=["ns"]),
    ],
)
def test_not_ready_while_anything_is_left(left: Report) -> None:
    ready = shown(policy(authorization("a")), left)[0]
    assert (ready.status, ready.reason) == (Status.FALSE, Reason.SEALING)


def test_preview_counts_what_it_would_hold_and_what_would_break() -> None:
    world = policy(authorization("a", mode="Preview"))
    held, broken = Named("ns", "s", "read by Pod p"), Named("ns", "tls", "refused")
    message = shown(world, Report(held=[held], broken=[broken]))[0].message
    assert ", hold 1 until" in message and message.endswith("; pods would be refused for 1 others (status.held)")
    assert "refused" not in shown(world, Report(held=[held]))[0].message
    assert [item["name"] for item in status(Report(held=[held], broken=[broken]))["held"]] == ["s", "tls"]


def test_what_does_not_fit_a_status_is_left_out() -> None:
    few = status(Report(held=[Named("ns", "s", "r" * 600)]))["held"]
    assert few == [{"namespace": "ns", "name": "s", "reason": "r" * 512}]
    assert len(status(Report(held=[Named("ns", "s", "r")] * 2001))["held"]) == 2000
    many = status(Report(unsealable=[Named("n" * 63, "s" * 253, "r" * 512)] * 2000))["unsealable"]
    assert sum(sum(map(len, item.values())) for item in many) <= 256 * 1024
