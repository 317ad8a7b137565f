"""Conditions."""

from datetime import UTC, datetime

import pytest

from keyshred import names
from keyshred.errors import ConfigInvalid, HsmBusy, KeyMissing, KeyshredError, Refused
from keyshred.names import Reason
from keyshred.policy.conditions import Condition, Status, merge, reason_in, reason_of

EARLIER, NOW = "2026-01-01T00:00:00Z", datetime(2026, 3, 1, 12, 0, 0, 999_999, tzinfo=UTC)


def ready(status: Status, reason: Reason) -> Condition:
    return Condition(names.Condition.READY, status, reason, "m")


OLD = [{"type": "Ready", "status": "False", "reason": "Pending", "message": "x", "lastTransitionTime": EARLIER}]


@pytest.mark.parametrize(
    ("new", "since"),
    [
        (ready(Status.FALSE, Reason.KEY_MISSING), EARLIER),
        (ready(Status.TRUE, Reason.KEY_ACTIVE), "2026-03-01T12:00:00Z"),
    ],
)
def test_the_time_moves_with_the_status_alone(new: Condition, since: str) -> None:
    assert merge(OLD, [new], generation=7, now=NOW) == [
        {
            "type": "Ready",
            "status": new.status.value,
            "reason": new.reason.value,
            "message": "m",
            "observedGeneration": 7,
            "lastTransitionTime": since,
        }
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HsmBusy("x"), Reason.HSM_UNAVAILABLE),
        (KeyMissing("x"), Reason.KEY_MISSING),
        (ConfigInvalid("x"), Reason.HSM_REFUSED),
        (Refused("x"), Reason.PENDING),
    ],
)
def test_errors_have_reasons(error: KeyshredError, reason: Reason) -> None:
    assert reason_of(error) is reason


def test_reason_in_a_status() -> None:
    assert reason_in({"conditions": OLD}, names.Condition.READY) == "Pending"
    assert reason_in({}, names.Condition.READY) == ""
