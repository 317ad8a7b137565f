"""When a KeyAuthorization last let somebody read: its `status.lastUnsealTime`, written behind the calls."""

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from keyshred.errors import KeyshredError
from keyshred.kube.client import METADATA_ONLY, Kube, own_path
from keyshred.names import KEY_AUTHORIZATIONS
from keyshred.policy.resources import Authorization
from keyshred.times import rfc3339

log = logging.getLogger(__name__)

_EVERY: Final = timedelta(minutes=1)


class LastUnseals:
    """Notes the KeyAuthorizations that served a call; writes each at most once a minute, and no call waits for it."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._written: dict[str, datetime] = {}
        self._writing: set[asyncio.Task[None]] = set()

    def note(self, served: Iterable[Authorization], now: datetime) -> None:
        """They served a call."""
        for authorization in served:
            # What its status says may come from another worker or replica: one of them is enough.
            times = (authorization.last_unseal, self._written.get(authorization.name))
            if any(t is not None and now - t < _EVERY for t in times):
                continue
            self._written[authorization.name] = now
            task = asyncio.create_task(self._write(authorization.name, now))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write(self, name: str, now: datetime) -> None:
        status = {"status": {"lastUnsealTime": rfc3339(now)}}
        try:
            await self._kube.patch(own_path(KEY_AUTHORIZATIONS, name, "status"), status, accept=METADATA_ONLY)
        except KeyshredError as error:
            log.warning("KeyAuthorization %s: lastUnsealTime not written: %s", name, error)
