"""The ledger of one key: the transitions in its KeyRecord, each bound to the one before by its hash.

The hash is SHA-256 over the canonical JSON of the earlier entry: members sorted, no white space, UTF-8. It shows an
entry that was changed or taken out, not a ledger that was written anew as a whole: that is what signatures are for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Required, TypedDict, Unpack

from keyshred.errors import LedgerBroken, Refused
from keyshred.times import stamp

Transition = Mapping[str, Any]

MAX_ENTRIES: Final = 1500
"""What the KeyRecord's schema lets a ledger hold."""
_MAX_TEXT: Final = 512
_ADMITTED_BEFORE: Final = timedelta(seconds=40)
"""Other webhooks may take 30 s after ours has answered, and no longer."""
_SKEW: Final = timedelta(seconds=5)
"""The webhook's clock may be ahead of the API server's."""


class Action(StrEnum):
    """What a transition says. Those of a step on the token are written before it; only the ones marked so, after it."""

    CREATED = "Created"
    GENERATE_STARTED = "GenerateStarted"
    GENERATED = "Generated"
    """After: the key is on the token, its check value and canary are recorded."""
    ACTIVATED = "Activated"
    ADOPTED = "Adopted"
    """After: the key was found on the token, and it is the recorded one where there is a record."""
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    DEACTIVATED = "Deactivated"
    GUARDS_CHANGED = "GuardsChanged"
    """What a deletion of the RootKey has to wait for is another from now on."""
    DELETE_ADMITTED = "DeleteAdmitted"
    """Written by the webhook, once for attempts that follow each other; `status.deleteAdmitted` is the newest one."""
    KEPT = "Kept"
    DESTRUCTION_SCHEDULED = "DestructionScheduled"
    RESTORED = "Restored"
    """After: within the grace period a RootKey took the key back, found on the token as recorded."""
    DESTRUCTION_STARTED = "DestructionStarted"
    CONTROL_PASSED = "ControlPassed"
    """After the control and before the destruction: it is the right token, and what it holds is the recorded key."""
    OBJECTS_DESTROYED = "ObjectsDestroyed"
    """After: the token said so."""
    DESTROYED = "Destroyed"
    """After: nothing is found and no canary opens any more."""
    SEARCH_REPEATED = "SearchRepeated"
    """After: what the second search found."""
    RESIDUAL_COUNTED = "ResidualCounted"
    """After: what running pods held of the key's Secrets by then."""


class Entry(TypedDict, total=False):
    """What the writer of a transition says."""

    action: Required[str]
    by: Required[str]
    root_key_uid: str
    detail: str


_DESTRUCTION: Final = frozenset(
    {
        Action.DESTRUCTION_STARTED,
        Action.CONTROL_PASSED,
        Action.OBJECTS_DESTROYED,
        Action.DESTROYED,
        Action.SEARCH_REPEATED,
        Action.RESIDUAL_COUNTED,
    }
)
_DELETES: Final = frozenset({Action.DELETE_ADMITTED, Action.DESTRUCTION_SCHEDULED, Action.RESTORED})
_ROOM_FOR_DESTRUCTION: Final = 20
_ROOM_FOR_DELETES: Final = 80
"""A ledger full of suspensions must still take the end of the key, and one full of deletes that went nowhere too."""


def digest(transition: Transition) -> str:
    """SHA-256 of the entry's canonical JSON, 64 hexadecimal digits."""
    text = json.dumps(transition, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def append(status: Mapping[str, Any], *, now: datetime, **entry: Unpack[Entry]) -> list[dict[str, Any]]:
    """The transitions of `status` and one more. Raises LedgerBroken for a broken chain, Refused for a full ledger."""
    transitions = [dict(t) for t in status.get("transitions") or ()]
    check_chain(transitions)
    action = Action(entry["action"])
    if len(transitions) >= _capacity(action):
        raise Refused(
            f"the ledger of this key holds {len(transitions)} entries and takes no more {action}: "
            "create another RootKey and move its Secrets there"
        )
    last = transitions[-1] if transitions else None
    transitions.append(
        {
            "seq": last["seq"] + 1 if last else 1,
            "time": stamp(now),
            "action": action.value,
            "by": cut(entry["by"]),
            "rootKeyUID": entry.get("root_key_uid", ""),
            "detail": cut(entry.get("detail", "")),
            "prevHash": digest(last) if last else "",
            "signature": "",
        }
    )
    return transitions


def _capacity(action: Action) -> int:
    if action in _DESTRUCTION:
        return MAX_ENTRIES
    if action in _DELETES:
        return MAX_ENTRIES - _ROOM_FOR_DESTRUCTION
    return MAX_ENTRIES - _ROOM_FOR_DESTRUCTION - _ROOM_FOR_DELETES


def check_chain(transitions: Sequence[Transition]) -> None:
    """Raises LedgerBroken where a number is left out or an entry does not fit the hash in the next."""
    previous: Transition | None = None
    for number, transition in enumerate(transitions, start=1):
        expected = digest(previous) if previous is not None else ""
        if transition.get("seq") != number or transition.get("prevHash") != expected:
            raise LedgerBroken(
                f"transition {number} of this KeyRecord does not follow the one before: somebody changed the ledger. "
                "Nothing is done with this key: compare with a backup of the KeyRecord"
            )
        previous = transition


def admitted_delete(status: Mapping[str, Any], root_key_uid: str, deletion_time: datetime) -> Mapping[str, Any] | None:
    """The admitted delete behind this deletionTimestamp; None: whatever set it went past admission.

    Only one from just before counts: a record of a delete that another admission plugin then refused must not turn a
    later deletion of another kind into a shred.
    """
    admitted: Mapping[str, Any] | None = status.get("deleteAdmitted")
    if admitted is None or admitted["rootKeyUID"] != root_key_uid:
        return None
    # A deletionTimestamp has whole seconds, cut off: the delete itself was up to a second later.
    latest = deletion_time + timedelta(seconds=1) + _SKEW
    at = datetime.fromisoformat(admitted["time"])
    return admitted if deletion_time - _ADMITTED_BEFORE <= at <= latest else None


def repeats_delete(status: Mapping[str, Any], root_key_uid: str) -> bool:
    """Whether the newest entry is an admitted delete of this RootKey already.

    A client that tries again and again, since another admission plugin refuses, must not fill the ledger.
    """
    transitions = status.get("transitions") or ()
    if not transitions:
        return False
    newest = transitions[-1]
    return (newest["action"], newest.get("rootKeyUID")) == (Action.DELETE_ADMITTED, root_key_uid)


def cut(text: str) -> str:
    """At most as many bytes as an entry has room for: a character may be four."""
    return text.encode()[:_MAX_TEXT].decode(errors="ignore")
