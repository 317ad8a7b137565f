"""Which job is whose, and the resync."""

import asyncio
import contextlib
from typing import Final
from uuid import UUID

from keyshred.controller.authorizations import Authorizations
from keyshred.controller.namespaces import Namespaces
from keyshred.controller.nodes import Nodes
from keyshred.controller.parts import Job, Kind, Parts, root_key_by_uid
from keyshred.controller.rootkeys import RootKeys
from keyshred.controller.second_look import SecondLook
from keyshred.controller.sweep import Sweeper
from keyshred.controller.watch import Watch
from keyshred.errors import NotFound
from keyshred.kube.client import Json, own_path
from keyshred.names import KEY_RECORDS, ROOT_KEYS, KeyState
from keyshred.observe import metrics
from keyshred.policy import destruction
from keyshred.policy.destruction import Step

_PAUSE: Final = 0.05
"""Seconds between two RootKeys of a resync."""

_OF_ALL: Final = frozenset({Kind.NAMESPACES, Kind.COUNT, Kind.NODES})
_AGAIN: Final = 5.0
"""Seconds after which a pass over all of them that failed is made again, whatever the cause."""


class Work:
    """What the queue calls."""

    def __init__(self, parts: Parts, watch: Watch) -> None:
        self._parts = parts
        self._watch = watch
        self._root_keys = RootKeys(parts)
        self._namespaces = Namespaces(parts)
        self._sweeper = Sweeper(parts)
        self._authorizations = Authorizations(parts, self._sweeper)
        self._nodes = Nodes(parts)

    async def run(self) -> None:
        """What goes on beside the jobs, until cancelled."""
        try:
            second_look = SecondLook(self._parts.kube, self._parts.enqueue)
            await asyncio.gather(self._sweeper.run(), self._nodes.run(), second_look.run())
        finally:
            self._parts.index.follow(frozenset(), frozenset())

    async def handle(self, job: Job) -> None:
        """One job; raises what went wrong."""
        try:
            await self._handle(job)
        except Exception:
            metrics.RECONCILE_FAILURES.labels(job.kind.value).inc()
            if job.kind in _OF_ALL:
                # Refused at one of many, it may be: no status says so, and no event of that one need come.
                self._parts.enqueue(job, _AGAIN)
            raise

    async def _handle(self, job: Job) -> None:
        match job.kind:
            case Kind.ROOT_KEY:
                await self._root_keys.reconcile(job.name)
            case Kind.RECORD:
                await self._record(UUID(job.name))
            case Kind.NAMESPACES:
                with contextlib.suppress(NotFound):  # a CRD is away: it brings its own events when it is back
                    await self._namespaces.reconcile()
            case Kind.NODES:
                await self._nodes.reconcile()
            case Kind.COUNT:
                with contextlib.suppress(NotFound):
                    await self._authorizations.count()
            case Kind.WATCH:
                await self._watch.look_again()
            case Kind.RESYNC:
                await self._resync()

    async def _all_root_keys(self) -> list[Json]:
        objects = [o async for o in self._parts.kube.list_all(own_path(ROOT_KEYS))]
        names = [o["metadata"]["name"] for o in objects]
        # One by one: what somebody waits for comes in between, however many keys there are.
        pause = min(_PAUSE, self._parts.settings.resync / 4 / max(len(names), 1))
        for number, name in enumerate(names):
            self._parts.enqueue(Job(Kind.ROOT_KEY, name), number * pause)
        self._parts.inventory.left(ROOT_KEYS, names)
        return objects

    async def _resync(self) -> None:
        self._parts.enqueue(Job(Kind.RESYNC), self._parts.settings.resync)
        await self._root_keys.materials.look_over()
        with contextlib.suppress(NotFound):
            # Before the RootKeys: whoever holds a key in this list and is not in the later one is gone for good.
            records = [r async for r in self._parts.kube.list_all(own_path(KEY_RECORDS))]
            self._parts.inventory.records(records)
            root_keys = await self._all_root_keys()
            uids = {o["metadata"]["uid"] for o in root_keys}
            key_ids = {o["spec"].get("keyID") for o in root_keys}
            for record in records:
                if self._needs_a_look(record, uids, key_ids):
                    self._parts.enqueue(Job(Kind.RECORD, record["metadata"]["name"]), 0)
        self._parts.enqueue(Job(Kind.NAMESPACES), 0)
        self._parts.enqueue(Job(Kind.COUNT), 0)

    def _needs_a_look(self, record: Json, uids: set[str], key_ids: set[str | None]) -> bool:
        status = record.get("status") or {}
        match destruction.next_step(status):
            case Step.DONE:
                return False
            case Step.REPEAT_SEARCH | Step.COUNT_RESIDUAL:
                return True
            case Step.START:
                return bool(status.get("rootKeyUID")) and status["rootKeyUID"] not in uids
            case _:
                # With a RootKey that waits for it, its own job goes on with the destruction.
                return record["metadata"]["name"] not in key_ids

    async def _record(self, key_id: UUID) -> None:
        record = await self._parts.records.get(key_id)
        if record is None:
            return
        if record["status"]["state"] == KeyState.DESTROYED:
            await self._root_keys.destruction.follow_up(record)
        elif record["status"]["state"] == KeyState.PENDING_DESTRUCTION:
            await self._root_keys.destruction.advance(record)
        elif not await self._is_held(record):
            await self._root_keys.keeping.orphaned(record)

    async def _is_held(self, record: Json) -> bool:
        uid = record["status"].get("rootKeyUID")
        if not uid:
            return True
        return await root_key_by_uid(self._parts.kube, uid) is not None
