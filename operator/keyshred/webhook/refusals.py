"""Events on pods that were refused a Secret, for `kubectl describe pod`: no more than the caller was told."""

import asyncio
import time
from collections import OrderedDict
from typing import Final

from keyshred.kube.events import Events
from keyshred.names import Reason
from keyshred.webhook.tokens import Identity

_AGAIN: Final = 300.0
"""Seconds after which the same is said once more."""
_REMEMBERED: Final = 4096
"""Refusals that are known to have been told."""
_WAITING: Final = 64
"""Events that wait to be posted; more are dropped, since a loop of refusals must not become one of Events."""
_TOLD: Final = frozenset({403, 410, 422})
"""Answers that stay the same until somebody changes something. Others pass by themselves."""


class Refusals:
    """Of one worker. Posting is never in the way of an answer."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._told: OrderedDict[tuple[str, str, int], float] = OrderedDict()
        self._queue: asyncio.Queue[tuple[dict[str, object], str]] = asyncio.Queue(_WAITING)

    def note(self, identity: Identity | None, namespace: str, secret: str, status: int, why: str) -> None:
        """One refused call. Who is no pod of this namespace gets no Event: keyshred may write none elsewhere."""
        if identity is None or not identity.pod_name or identity.namespace != namespace or status not in _TOLD:
            return
        key, now = (identity.pod_uid, secret, status), time.monotonic()
        if now - self._told.get(key, float("-inf")) < _AGAIN or self._queue.full():
            return
        self._told[key] = now
        self._told.move_to_end(key)
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        metadata = {"name": identity.pod_name, "namespace": namespace, "uid": identity.pod_uid}
        pod: dict[str, object] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        self._queue.put_nowait((pod, f"Secret {secret} was not unsealed: {why}"))

    async def run(self) -> None:
        """Posts until cancelled."""
        while True:
            pod, message = await self._queue.get()
            await self._events.post(pod, Reason.UNSEAL_REFUSED, message, warning=True)
