"""Conditions in a status (Kubernetes API conventions, "Typical status properties")."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from keyshred import names
from keyshred.errors import (
    ConfigInvalid,
    HsmBusy,
    HsmUnavailable,
    KeyAmbiguous,
    KeyClaimed,
    KeyMissing,
    KeyProtected,
    KeyshredError,
    LedgerBehindToken,
    LedgerBroken,
    PinRefused,
    TokenBroken,
    TokenMismatch,
)
from keyshred.names import Reason
from keyshred.times import rfc3339

_REASONS: Final[Mapping[type[KeyshredError], Reason]] = {
    HsmUnavailable: Reason.HSM_UNAVAILABLE,
    HsmBusy: Reason.HSM_UNAVAILABLE,
    PinRefused: Reason.HSM_REFUSED,
    ConfigInvalid: Reason.HSM_REFUSED,
    TokenMismatch: Reason.TOKEN_MISMATCH,
    TokenBroken: Reason.TOKEN_BROKEN,
    KeyMissing: Reason.KEY_MISSING,
    KeyAmbiguous: Reason.KEY_AMBIGUOUS,
    LedgerBroken: Reason.LEDGER_BROKEN,
    LedgerBehindToken: Reason.LEDGER_BEHIND_TOKEN,
    KeyClaimed: Reason.KEY_CLAIMED,
    KeyProtected: Reason.KEY_PROTECTED,
}


class Status(StrEnum):
    """What a condition says."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as it is meant now."""

    type: names.Condition
    status: Status
    reason: Reason
    message: str


def reason_of(error: KeyshredError) -> Reason:
    """The reason that stands for an error in a condition; Pending for one that has no word of its own."""
    return _REASONS.get(type(error), Reason.PENDING)


def merge(
    old: Sequence[Mapping[str, Any]], new: Iterable[Condition], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """`new` as the API has it. lastTransitionTime moves only with the status."""
    before = {c["type"]: c for c in old}
    result = []
    for condition in new:
        last = before.get(condition.type)
        same = last is not None and last["status"] == condition.status
        result.append(
            {
                "type": condition.type.value,
                "status": condition.status.value,
                "reason": condition.reason.value,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": last["lastTransitionTime"] if last and same else rfc3339(now),
            }
        )
    return result


def reason_in(status: Mapping[str, Any], kind: names.Condition) -> str:
    """The reason that a status gives for a condition; empty where it has none."""
    return next((str(c["reason"]) for c in status.get("conditions") or () if c["type"] == kind), "")
