"""A look past the watch: one that has gone silent must not keep a key from being made, or a tenant from sealing."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from keyshred.controller.parts import COUNT_SOON, Job, Kind
from keyshred.errors import KeyshredError
from keyshred.kube.client import METADATA_LIST, Kube, own_path
from keyshred.names import KEY_AUTHORIZATIONS, ROOT_KEYS

log = logging.getLogger(__name__)

_PAUSE: Final = 10.0
"""Seconds between two looks. A list of metadata of what there are few of; a full pass is made at each resync."""

_Seen = dict[str, tuple[str, int, bool]]
"""By name: UID, generation and whether it is being deleted."""


class SecondLook:
    """Compares consistent lists with those before, and asks for the jobs that the watch asks for, too."""

    def __init__(self, kube: Kube, enqueue: Callable[[Job, float], None]) -> None:
        self._kube = kube
        self._enqueue = enqueue
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.look()
            except KeyshredError as error:
                log.warning("%s; looking again in %.0f s", error, _PAUSE)
            await asyncio.sleep(_PAUSE)

    async def look(self) -> None:
        """One look. Raises what the API server answered."""
        for name in await self._changed(ROOT_KEYS):
            self._enqueue(Job(Kind.ROOT_KEY, name), 0)
        if await self._changed(KEY_AUTHORIZATIONS):
            self._enqueue(Job(Kind.NAMESPACES), 0)
            self._enqueue(Job(Kind.COUNT), COUNT_SOON)

    async def _changed(self, resource: str) -> set[str]:
        listed = [o["metadata"] async for o in self._kube.list_all(own_path(resource), accept=METADATA_LIST)]
        now = {m["name"]: (m["uid"], m.get("generation", 0), "deletionTimestamp" in m) for m in listed}
        before = self._seen.get(resource, {})
        self._seen[resource] = now
        return {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}
