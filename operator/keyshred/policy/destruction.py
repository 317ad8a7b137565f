"""The destruction of a key (design contract, section 6): the next step, and what its record says.

The KeyRecord alone decides. Each step is written there before it is taken, so whoever reads it goes on from where the
last one stopped, be it this process or the next.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from keyshred.errors import KeyAmbiguous, TokenMismatch
from keyshred.hsm.interface import KeyRef, TokenStatus
from keyshred.names import KeyState
from keyshred.policy.ledger import Action
from keyshred.policy.lifecycle import Dependents
from keyshred.policy.residual import Residual
from keyshred.policy.resources import Object
from keyshred.times import rfc3339, stamp

RecordStatus = Mapping[str, Any]
Json = dict[str, Any]

UNSIGNED: Final = "unsigned: record signing comes in a later release"


_BEGINNINGS: Final = (Action.DESTRUCTION_SCHEDULED, Action.DESTRUCTION_STARTED)


class Step(StrEnum):
    """What is to be done next."""

    START = "Start"
    WAIT = "Wait"
    CONTROL = "Control"
    DESTROY = "Destroy"
    VERIFY = "Verify"
    REPEAT_SEARCH = "RepeatSearch"
    COUNT_RESIDUAL = "CountResidual"
    DONE = "Done"


class Outcome(StrEnum):
    """What the record may claim."""

    PERFORMED = "performed"
    ABSENCE_OBSERVED = "absenceObserved"


def next_step(status: RecordStatus) -> Step:
    """From the transitions since the destruction was scheduled or begun last. START needs an admitted delete."""
    state = status.get("state")
    if state not in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED):
        return Step.START
    actions = [t["action"] for t in status.get("transitions") or ()]
    since = actions[max((i for i, a in enumerate(actions) if a in _BEGINNINGS), default=0) :]
    if state == KeyState.DESTROYED:
        if Action.SEARCH_REPEATED not in since:
            return Step.REPEAT_SEARCH
        return Step.DONE if Action.RESIDUAL_COUNTED in since else Step.COUNT_RESIDUAL
    if Action.DESTRUCTION_SCHEDULED in since:
        return Step.WAIT
    if Action.OBJECTS_DESTROYED in since:
        return Step.VERIFY
    return Step.DESTROY if Action.CONTROL_PASSED in since else Step.CONTROL


def has_begun(status: RecordStatus) -> bool:
    """Whether the key is destroyed or being destroyed, so that nothing takes it back."""
    return next_step(status) not in (Step.START, Step.WAIT)


def moment_after(status: RecordStatus, after: float) -> datetime:
    """The moment `after` seconds after the key was Destroyed."""
    return datetime.fromisoformat(status["evidence"]["destroyedAt"]) + timedelta(seconds=after)


def request(root_key: Object, admitted: Mapping[str, Any], grace_period: timedelta) -> Json:
    """`status.destruction`: whose wish it was. With a grace period it outlives the RootKey, and is due after it."""
    wish = {
        "rootKeyName": root_key["metadata"]["name"],
        "rootKeyUID": root_key["metadata"]["uid"],
        "origin": root_key["spec"].get("origin") or "Generated",
        "requestedBy": admitted["by"],
        "requestedAt": admitted["time"],
    }
    if grace_period:
        deleted_at = datetime.fromisoformat(root_key["metadata"]["deletionTimestamp"])
        wish["dueAt"] = stamp(deleted_at + grace_period)
    return wish


def scheduled(wish: Mapping[str, Any]) -> Json:
    """Changes of the record for DestructionScheduled."""
    return {
        "state": KeyState.PENDING_DESTRUCTION.value,
        "message": f"the key is destroyed at {wish['dueAt']}; until then a RootKey with origin Adopted and this key ID "
        "takes it back",
        "destruction": dict(wish),
    }


def due_at(status: RecordStatus) -> datetime:
    """When a scheduled destruction begins."""
    return datetime.fromisoformat(status["destruction"]["dueAt"])


def started(
    record: Object,
    wish: Mapping[str, Any],
    *,
    cluster_uid: str,
    dependents: Dependents | None,
    hsm_backup_retention: str,
) -> Json:
    """Changes of the record for DestructionStarted: whose wish it was and what it will cost."""
    evidence: Json = {
        "keyID": record["spec"]["keyID"],
        "rootKeyName": wish["rootKeyName"],
        "clusterUID": cluster_uid,
        "origin": wish["origin"],
        "versions": [
            {k: v[k] for k in ("version", "checkValue", "mechanism") if k in v}
            for v in record["status"].get("versions") or ()
        ],
        "requestedBy": wish["requestedBy"],
        "requestedAt": wish["requestedAt"],
        "hsmBackup": {"retention": hsm_backup_retention or "unknown"},
        "signed": False,
    }
    if dependents is not None:
        evidence["dependents"] = {
            "secrets": dependents.secrets,
            "sealedAtCreate": dependents.secrets - dependents.adopted,
            "adopted": dependents.adopted,
            "observedAt": rfc3339(dependents.observed_at),
        }
        if dependents.earliest_adoption is not None:
            evidence["dependents"]["earliestAdoption"] = rfc3339(dependents.earliest_adoption)
    return {
        "state": KeyState.PENDING_DESTRUCTION.value,
        "message": "destruction was asked for and is under way",
        "evidence": evidence,
    }


def check_found(status: RecordStatus, found: Sequence[KeyRef]) -> None:
    """The part of the positive control that needs no key: does the ledger know what is on the token?

    Raises KeyAmbiguous.
    """
    known = {v["version"] for v in status.get("versions") or ()}
    if not known and any(t["action"] == Action.GENERATE_STARTED for t in status.get("transitions") or ()):
        # A generate that was cut short: nobody ever sealed under what it left.
        known = {1}
    if unknown := sorted(ref.version for ref in found if ref.version not in known):
        raise KeyAmbiguous(
            f"the token holds versions {', '.join(map(str, unknown))} of this key, which the KeyRecord does not know: "
            "nothing is destroyed. Find out whether the KeyRecord was restored from an older backup. To keep the key, "
            "disconnect the token first: the destruction has begun, and goes on by itself once the cause is gone"
        )


def check_token(status: RecordStatus, token: TokenStatus) -> None:
    """Raises TokenMismatch unless the serial number is the recorded one."""
    expected = (status.get("token") or {}).get("serial")
    if expected is not None and token.serial != expected:
        raise TokenMismatch(
            f"the token has the serial number {token.serial}, the key was made on {expected}: nothing is destroyed; "
            "connect keyshred to that token again"
        )


def control_passed(token: TokenStatus, found: Sequence[KeyRef], opened: bool, now: datetime) -> Json:
    """Changes for ControlPassed. `opened`: there were canaries, and they opened; else it raised."""
    before: Json = {"passed": True, "time": stamp(now), "tokenFound": True}
    if opened:
        before["canaryOpened"] = True
    return {
        "evidence": {
            "outcome": (Outcome.PERFORMED if found else Outcome.ABSENCE_OBSERVED).value,
            "class": "software-logical" if token.software else "hsm-reported",
            "token": token_fields(token),
            "startedAt": stamp(now),
            "controls": {"before": before},
        }
    }


def objects_destroyed(count: int, resumed: bool) -> tuple[Json, str]:
    """Changes and detail for ObjectsDestroyed. `resumed`: an earlier attempt may have got that far already."""
    if resumed:
        return {}, f"objects destroyed: {count}, after an attempt that was interrupted"
    evidence: Json = {"objectsDestroyed": count}
    if not count:
        # The control had found it: somebody else was faster, perhaps another cluster that wanted the same.
        evidence["outcome"] = Outcome.ABSENCE_OBSERVED.value
    return {"evidence": evidence}, f"objects destroyed: {count}"


def destroyed(status: RecordStatus, residual: Residual | None, now: datetime) -> Json:
    """Changes for Destroyed: everything was looked for again, and nothing was found.

    `residual`: what pods held by then, before anything of it can have been cleared; None: not known.
    """
    outcome = Outcome(status["evidence"]["outcome"])
    after: Json = {"passed": True, "time": stamp(now), "keyFound": False, "tokenFound": True}
    if any(v.get("canary") for v in status.get("versions") or ()):
        after["canaryOpensUnderAnyKey"] = False
    what = (
        "keyshred destroyed this key and found it gone"
        if outcome is Outcome.PERFORMED
        else "this key was not on the token any more when its destruction was asked for"
    )
    if status["evidence"]["class"] == "software-logical":
        what += "; the token is software: what is left on its disk and in copies of it is not covered"
    changes: Json = {
        "state": KeyState.DESTROYED.value,
        "message": f"{what} ({UNSIGNED})",
        "rootKeyUID": "",
        "evidence": {"destroyedAt": stamp(now), "controls": {"after": after}},
    }
    if residual is not None:
        changes["evidence"]["residual"] = residual.fields()
    if outcome is Outcome.PERFORMED:
        changes["versions"] = [dict(v) | {"destroyedAt": stamp(now)} for v in status.get("versions") or ()]
    return changes


def search_repeated(status: RecordStatus, found: int, now: datetime) -> Json:
    """Changes for SearchRepeated."""
    changes: Json = {"evidence": {"repeatSearch": {"time": stamp(now), "objectsFound": found}}}
    if found:
        changes["message"] = (
            f"the search after the destruction found this key again ({found} objects): a backup of the token was "
            "restored, or the token keeps copies. Whoever uses that token can read the Secrets again: destroy the "
            "objects there"
        )
    return changes


def residual_counted(residual: Residual) -> Json:
    """Changes for ResidualCounted."""
    return {"evidence": {"residual": residual.fields()}}


def token_fields(token: TokenStatus) -> Json:
    """The token as a record names it, and whether it keeps claims and the ledger's head."""
    return {
        "label": token.label,
        "serial": token.serial,
        "manufacturer": token.manufacturer,
        "model": token.model,
        "firmware": token.firmware,
        "dataObjects": token.data_objects,
    }
