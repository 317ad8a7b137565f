"""Writes a status where it differs, and an Event where Ready has a new reason."""

from collections.abc import Sequence
from typing import Final

from keyshred import names
from keyshred.controller.parts import Parts
from keyshred.kube.client import Json, own_path
from keyshred.names import KEY_AUTHORIZATIONS, ROOT_KEYS, Reason
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


async def write(parts: Parts, resource: str, obj: Json, status: Json, shown: Sequence[Condition]) -> None:
    """Patches `/status` to be `status` with the conditions `shown`, where that changes anything."""
    old = obj.get("status") or {}
    new = with_conditions(obj, status, shown)
    if resource in (ROOT_KEYS, KEY_AUTHORIZATIONS):
        parts.inventory.saw(resource, obj["metadata"]["name"], obj["spec"], new)
    patch = difference(old, new)
    if not patch:
        return
    # Not conditional: a status is computed from what was read, and whatever changed since brings its own event.
    await parts.kube.patch(own_path(resource, obj["metadata"]["name"], "status"), {"status": patch})
    ready = next(c for c in shown if c.type is names.Condition.READY)
    if conditions.reason_in(old, names.Condition.READY) != ready.reason:
        warning = ready.status is not Status.TRUE and ready.reason not in _WANTED
        await parts.events.post(obj, ready.reason, ready.message, warning=warning)
