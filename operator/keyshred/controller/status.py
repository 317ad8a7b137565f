"""Writes a status where it differs, and an Event where Ready has a new reason."""

from collections.abc import Sequence
from typing import Final

from keyshred import names
from keyshred.kube.client import Json, Kube, own_path
from keyshred.kube.events import Events
from keyshred.names import Reason
from keyshred.policy import conditions
from keyshred.policy.conditions import Condition, Status
from keyshred.policy.merge import difference
from keyshred.times import utc_now

_WANTED: Final = frozenset(
    {
        Reason.KEY_SUSPENDED,
        Reason.KEY_DEACTIVATED,
        Reason.NOT_YET_ACTIVE,
        Reason.DESTRUCTION_STARTED,
        Reason.EXPIRED,
        Reason.SEALING,
        Reason.PREVIEW,
        Reason.RELEASING,
    }
)
"""Not ready, and just as somebody asked for."""


def with_conditions(obj: Json, status: Json, shown: Sequence[Condition]) -> Json:
    """`status` with these conditions; their times are kept from the object's own."""
    old = (obj.get("status") or {}).get("conditions") or ()
    generation = obj["metadata"].get("generation", 0)
    return status | {
        "conditions": conditions.merge(old, shown, generation=generation, now=utc_now()),
        "observedGeneration": generation,
    }


async def write(kube: Kube, events: Events, resource: str, obj: Json, status: Json, shown: Sequence[Condition]) -> None:
    """Patches `/status` to be `status` with the conditions `shown`, where that changes anything."""
    old = obj.get("status") or {}
    patch = difference(old, with_conditions(obj, status, shown))
    if not patch:
        return
    # Not conditional: a status is computed from what was read, and whatever changed since brings its own event.
    await kube.patch(own_path(resource, obj["metadata"]["name"], "status"), {"status": patch})
    ready = next(c for c in shown if c.type is names.Condition.READY)
    if conditions.reason_in(old, names.Condition.READY) != ready.reason:
        warning = ready.status is not Status.TRUE and ready.reason not in _WANTED
        await events.post(obj, ready.reason, ready.message, warning=warning)
