"""Destruction: the next step from any point, and what the record may claim."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from keyshred.envelope.format import Mechanism
from keyshred.errors import KeyAmbiguous, TokenMismatch
from keyshred.hsm.interface import KeyRef, TokenStatus
from keyshred.policy import destruction
from keyshred.policy.destruction import Step, next_step
from keyshred.policy.ledger import Action
from keyshred.policy.lifecycle import Dependents
from keyshred.policy.merge import merged
from keyshred.policy.residual import Residual

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY_ID = UUID("7f1d1c52-9a7c-4a4f-9d55-0a6a2b1f7d11")
TOKEN = TokenStatus("t", "serial-1", "m", "mo", "f", Mechanism.AES_GCM, True, True)
VERSION = {"version": 1, "mechanism": "AES_GCM", "checkValue": "ab" * 16, "canary": "x", "createdAt": "t"}
STEPS = [Action.DESTRUCTION_STARTED, Action.CONTROL_PASSED, Action.OBJECTS_DESTROYED]


def status(state: str, *actions: Action, **more: Any) -> dict[str, Any]:
    return {"state": state, "transitions": [{"action": a.value} for a in actions]} | more


@pytest.mark.parametrize(
    ("state", "actions", "step"),
    [
        ("Active", [], Step.START),
        ("PreActivation", [Action.DELETE_ADMITTED], Step.START),
        # Kept once, then used again: what was never begun is not gone on with.
        ("Active", [Action.KEPT, Action.ADOPTED], Step.START),
        ("PendingDestruction", STEPS[:1], Step.CONTROL),
        ("PendingDestruction", STEPS[:2], Step.DESTROY),
        ("PendingDestruction", STEPS, Step.VERIFY),
        # Another admitted delete in between changes nothing.
        ("PendingDestruction", [*STEPS[:2], Action.DELETE_ADMITTED], Step.DESTROY),
        ("PendingDestruction", [Action.DESTRUCTION_SCHEDULED], Step.WAIT),
        ("PendingDestruction", [Action.DESTRUCTION_SCHEDULED, Action.DELETE_ADMITTED], Step.WAIT),
        ("PendingDestruction", [Action.DESTRUCTION_SCHEDULED, *STEPS[:1]], Step.CONTROL),
        ("Active", [Action.DESTRUCTION_SCHEDULED, Action.RESTORED, Action.ACTIVATED], Step.START),
        # Restored once, deleted again.
        ("PendingDestruction", [*STEPS[:2], Action.RESTORED, Action.DESTRUCTION_SCHEDULED], Step.WAIT),
        # Only what came since the last start counts.
        ("PendingDestruction", [*STEPS, Action.DESTRUCTION_STARTED], Step.CONTROL),
        ("Destroyed", [*STEPS, Action.DESTROYED], Step.REPEAT_SEARCH),
        ("Destroyed", [*STEPS, Action.DESTROYED, Action.SEARCH_REPEATED], Step.COUNT_RESIDUAL),
        ("Destroyed", [*STEPS, Action.DESTROYED, Action.SEARCH_REPEATED, Action.RESIDUAL_COUNTED], Step.DONE),
    ],
)
def test_next_step(state: str, actions: list[Action], step: Step) -> None:
    assert next_step(status(state, *actions)) is step
    assert destruction.has_begun(status(state, *actions)) is (step not in (Step.START, Step.WAIT))


def test_only_the_recorded_token_will_do() -> None:
    record = status("PendingDestruction", token={"serial": "serial-2"}, versions=[VERSION])
    with pytest.raises(TokenMismatch, match="serial-2"):
        destruction.check_token(record, TOKEN)


def test_versions_that_the_ledger_does_not_know_stop_it() -> None:
    record = status("PendingDestruction", versions=[VERSION])
    destruction.check_found(record, [KeyRef(KEY_ID, 1)])
    with pytest.raises(KeyAmbiguous, match="versions 2"):
        destruction.check_found(record, [KeyRef(KEY_ID, 1), KeyRef(KEY_ID, 2)])


@pytest.mark.parametrize(("actions", "ours"), [([Action.GENERATE_STARTED], True), ([Action.CREATED], False)])
def test_a_key_half_made_is_ours_only_where_we_meant_to_make_it(actions: list[Action], ours: bool) -> None:
    record = status("PendingDestruction", *actions)
    if ours:
        destruction.check_found(record, [KeyRef(KEY_ID, 1)])
    else:
        with pytest.raises(KeyAmbiguous):
            destruction.check_found(record, [KeyRef(KEY_ID, 1)])


ROOT_KEY: dict[str, Any] = {
    "metadata": {"name": "tenant", "uid": "uid-1", "deletionTimestamp": "2026-03-01T12:00:00Z"},
    "spec": {"origin": "Generated"},
}
ADMITTED = {"by": "key-admin", "time": "2026-03-01T11:59:59.000000Z"}


def record(**more: Any) -> dict[str, Any]:
    return {"spec": {"keyID": str(KEY_ID)}, "status": status("Active", versions=[VERSION]) | more}


def wish(grace_period: timedelta = timedelta()) -> dict[str, Any]:
    return destruction.request(ROOT_KEY, ADMITTED, grace_period)


def started(dependents: Dependents | None = None, retention: str = "") -> dict[str, Any]:
    return destruction.started(record(), wish(), cluster_uid="c", dependents=dependents, hsm_backup_retention=retention)


def test_with_a_grace_period_the_wish_outlives_its_root_key() -> None:
    assert "dueAt" not in wish()
    waiting = merged(record()["status"], destruction.scheduled(wish(timedelta(hours=72))))
    assert (waiting["state"], waiting["destruction"]["requestedBy"]) == ("PendingDestruction", "key-admin")
    # From the deletion on, and not from when the controller came to it.
    assert destruction.due_at(waiting) == datetime(2026, 3, 4, 12, tzinfo=UTC)
    assert "2026-03-04T12:00:00" in waiting["message"] and "Adopted" in waiting["message"]


def test_a_key_that_went_between_control_and_destruction_was_not_destroyed_by_us() -> None:
    changes, _ = destruction.objects_destroyed(0, resumed=False)
    assert changes["evidence"] == {"objectsDestroyed": 0, "outcome": "absenceObserved"}


def test_the_request_is_recorded_before_anything_is_done() -> None:
    changes = started(Dependents(5, 2, {1: 5}, 2, NOW - timedelta(days=1), NOW), retention="30 days")
    assert changes["state"] == "PendingDestruction"
    assert changes["evidence"] == {
        "keyID": str(KEY_ID),
        "rootKeyName": "tenant",
        "clusterUID": "c",
        "origin": "Generated",
        "versions": [{"version": 1, "checkValue": "ab" * 16, "mechanism": "AES_GCM"}],
        "requestedBy": "key-admin",
        "requestedAt": "2026-03-01T11:59:59.000000Z",
        "hsmBackup": {"retention": "30 days"},
        "signed": False,
        "dependents": {
            "secrets": 5,
            "sealedAtCreate": 3,
            "adopted": 2,
            "earliestAdoption": "2026-02-28T12:00:00Z",
            "observedAt": "2026-03-01T12:00:00Z",
        },
    }


def test_what_is_not_known_is_not_said() -> None:
    evidence = started()["evidence"]
    assert "dependents" not in evidence
    assert "residual" not in evidence
    assert evidence["hsmBackup"] == {"retention": "unknown"}


@pytest.mark.parametrize("software", [True, False])
@pytest.mark.parametrize("present", [True, False])
def test_the_record_claims_what_was_seen(software: bool, present: bool) -> None:
    token = TokenStatus("t", "serial-1", "m", "mo", "f", Mechanism.AES_GCM, software, True)
    found = [KeyRef(KEY_ID, 1)] if present else []
    before = merged(record()["status"], started())
    before = merged(before, destruction.control_passed(token, found, present, NOW))
    after = merged(before, destruction.destroyed(before, None, NOW))
    assert "residual" not in after["evidence"]
    evidence = after["evidence"]
    assert evidence["outcome"] == ("performed" if present else "absenceObserved")
    assert evidence["class"] == ("software-logical" if software else "hsm-reported")
    assert ("canaryOpened" in evidence["controls"]["before"]) is present
    assert evidence["controls"]["after"]["keyFound"] is False
    assert evidence["controls"]["after"]["canaryOpensUnderAnyKey"] is False
    assert ("destroyedAt" in after["versions"][0]) is present
    assert ("software" in after["message"]) is software
    assert after["message"].startswith("keyshred destroyed" if present else "this key was not on the token")
    assert (after["state"], after["rootKeyUID"], evidence["destroyedAt"]) == (
        "Destroyed",
        "",
        "2026-03-01T12:00:00.000000Z",
    )


def test_a_count_after_an_interruption_is_not_claimed() -> None:
    assert destruction.objects_destroyed(1, resumed=False)[0] == {"evidence": {"objectsDestroyed": 1}}
    assert destruction.objects_destroyed(0, resumed=True)[0] == {}


def test_what_comes_later_counts_from_the_destruction() -> None:
    done = {"evidence": {"destroyedAt": "2026-03-01T12:00:00.000000Z"}}
    assert destruction.moment_after(done, 60) == NOW + timedelta(seconds=60)


def test_what_pods_hold_is_recorded_at_once_and_again() -> None:
    before = merged(record()["status"], started())
    before = merged(before, destruction.control_passed(TOKEN, [KeyRef(KEY_ID, 1)], True, NOW))
    first = merged(before, destruction.destroyed(before, Residual(environments=2, unreached=5), NOW))
    assert first["evidence"]["residual"] == {"podsWithEnvironment": 2, "volumesCleared": 0, "volumesUnreached": 5}
    later = merged(first, destruction.residual_counted(Residual(environments=1, cleared=4, unreached=1)))
    assert later["evidence"] == first["evidence"] | {
        "residual": {"podsWithEnvironment": 1, "volumesCleared": 4, "volumesUnreached": 1}
    }


def test_a_key_that_came_back_is_told() -> None:
    assert "message" not in destruction.search_repeated({}, 0, NOW)
    assert "again" in destruction.search_repeated({}, 1, NOW)["message"]
