"""Events on pods, for `kubectl describe pod`: which Secret was refused, and which files of a destroyed key are gone.

They say no more than the caller was told, or said.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple
from uuid import UUID

from keyshred.kube.events import Events
from keyshred.names import Reason
from keyshred.policy.residual import said
from keyshred.webhook.tokens import Identity

_AGAIN: Final = 300.0
"""Seconds after which the same is said once more."""
_CLEARED_AGAIN: Final = 1800.0
"""The same for what was cleared: API servers drop Events after an hour, and a controller may be late to count them."""
_REMEMBERED: Final = 4096
"""What is known to have been told."""
_WAITING: Final = 64
"""Events that wait to be posted; more are dropped, since a loop of refusals must not become one of Events. What was
cleared is said again at the kubelet's next look."""
_TOLD: Final = frozenset({403, 410, 422})
"""Answers that stay the same until somebody changes something. Others pass by themselves."""


class _Event(NamedTuple):
    pod: dict[str, object]
    reason: Reason
    message: str
    warning: bool


class Refusals:
    """Of one worker. Posting is never in the way of an answer."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._told: OrderedDict[Hashable, float] = OrderedDict()
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(_WAITING)

    def note(self, identity: Identity | None, namespace: str, secret: str, status: int, why: str) -> None:
        """One refused call. Who is no pod of this namespace gets no Event: keyshred may write none elsewhere."""
        if identity is None or not identity.pod_name or identity.namespace != namespace or status not in _TOLD:
            return
        event = _Event(_pod(identity), Reason.UNSEAL_REFUSED, f"Secret {secret} was not unsealed: {why}", True)
        self._tell((identity.pod_uid, secret, status), _AGAIN, event)

    def note_cleared(self, identity: Identity, secret: str, volume: str, key_id: UUID) -> None:
        """A pod of the Secret's namespace says that its volume holds nothing of it any more."""
        event = _Event(_pod(identity), Reason.VOLUME_CLEARED, said(volume, secret, key_id), False)
        self._tell((identity.pod_uid, secret, volume), _CLEARED_AGAIN, event)

    def _tell(self, key: Hashable, again: float, event: _Event) -> None:
        now = time.monotonic()
        if now - self._told.get(key, float("-inf")) < again or self._queue.full():
            return
        self._told[key] = now
        self._told.move_to_end(key)
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self._queue.put_nowait(event)

    async def run(self) -> None:
        """Posts until cancelled."""
        while True:
            event = await self._queue.get()
            await self._events.post(event.pod, event.reason, event.message, warning=event.warning)


def _pod(identity: Identity) -> dict[str, object]:
    metadata = {"name": identity.pod_name, "namespace": identity.namespace, "uid": identity.pod_uid}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
