"""The policy that decides, and how old it may be."""

import asyncio
import contextlib
import logging
from typing import Final
from uuid import UUID

from keyshred.errors import KeyshredError, Malformed, NotFound, PolicyNotFresh
from keyshred.kube.client import Json, Kube, own_path, path
from keyshred.kube.collection import Collection
from keyshred.names import ANNOTATION_HELD, KEY_AUTHORIZATIONS, KEY_RECORDS, ROOT_KEYS, KeyState
from keyshred.policy.authorizations import Policy
from keyshred.policy.resources import Authorization, RootKey
from keyshred.policy.selectors import Labels

log = logging.getLogger(__name__)

_FIRST_LISTS: Final = 5.0
"""Seconds that requests wait for the first lists after the start; an API server waits 10 s for a webhook."""
_PATIENCE: Final = 3.0
"""Seconds that requests wait for a confirmation: an API server has none for a moment where a CRD is changed."""
_POLL: Final = 0.05
_IDLE: Final = 5.0
"""Seconds without a request after which the policy is no longer confirmed in the background."""


class Snapshot:
    """Watches what decides, and confirms it by consistent lists while there is traffic.

    A watch alone may stall for a minute unnoticed; so RootKeys and KeyAuthorizations are listed (metadata only) every
    `confirm_every` seconds while requests come, and no policy confirmed more than `max_age` seconds ago decides.
    """

    def __init__(
        self,
        kube: Kube,
        own_namespace: str,
        *,
        max_age: float,
        confirm_every: float,
        first_lists: float = _FIRST_LISTS,
        patience: float = _PATIENCE,
    ) -> None:
        self._kube = kube
        self._own_namespace = own_namespace
        self._max_age = max_age
        self._confirm_every = confirm_every
        self._first_lists_within = first_lists
        self._patience = patience
        self._root_keys: dict[str, RootKey] = {}
        self._authorizations: dict[str, Authorization] = {}
        self._namespaces: dict[str, Labels] = {}
        self._held: dict[str, frozenset[str]] = {}
        self._records: dict[UUID, KeyState] = {}
        self._root_key_objects = Collection(kube, own_path(ROOT_KEYS), self._root_key_changed)
        self._authorization_objects = Collection(kube, own_path(KEY_AUTHORIZATIONS), self._authorization_changed)
        self._namespace_objects = Collection(kube, path("namespaces"), self._namespace_changed)
        self._record_objects = Collection(kube, own_path(KEY_RECORDS), self._record_changed)
        self._unreadable: set[str] = set()
        self._starting = True
        self._policy: Policy | None = None
        self._confirmed_at = float("-inf")
        self._used_at = float("-inf")
        self._used = asyncio.Event()
        self._confirming: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Watches and confirms until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for collection in self._collections():
                tasks.create_task(collection.run())
            tasks.create_task(self._confirm_under_traffic())

    @property
    def synced(self) -> bool:
        """Every collection was listed at least once, exists, and can be read."""
        return not self._unreadable and all(c.synced for c in self._collections())

    @property
    def age(self) -> float:
        """Seconds since the start of the list that confirmed the policy last; infinite before the first."""
        return asyncio.get_running_loop().time() - self._confirmed_at

    async def policy(self, namespace: str = "") -> Policy:
        """The policy, confirmed at most `max_age` seconds ago.

        A `namespace` whose sealing label is not seen is read: it may be new, and the API server knows it already.
        Raises PolicyNotFresh, and what Kube.get raises.
        """
        self._used_at = asyncio.get_running_loop().time()
        self._used.set()
        if self._starting:
            await self._first_lists()
        if not self.synced or self.age > self._max_age:
            await self._confirm_patiently()
        policy = self.current()
        if namespace and policy.sealing(namespace) is None and not policy.never_seals(namespace):
            with contextlib.suppress(NotFound):
                self._see(namespace, await self._kube.get(path("namespaces", namespace)))
        return self.current()

    async def _confirm_patiently(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        while True:
            try:
                return await self.confirm()
            except PolicyNotFresh:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_POLL)

    async def _first_lists(self) -> None:
        """Lets requests wait while this worker starts: another one may have said already that all is ready."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._first_lists_within):
                while not self.synced:
                    await asyncio.sleep(_POLL)
        self._starting = False

    def current(self) -> Policy:
        """The policy, without waiting. Raises PolicyNotFresh where it is not confirmed recently enough."""
        if self._unreadable:
            raise PolicyNotFresh(
                f"the KeyAuthorization {min(self._unreadable)} cannot be read, so nothing is decided: "
                "correct it or delete it"
            )
        if not self.synced:
            raise PolicyNotFresh("keyshred has not read its policy yet: try again")
        if self.age > self._max_age:
            raise PolicyNotFresh("keyshred cannot confirm its policy with the API server: try again")
        if self._policy is None:
            self._policy = Policy(
                own_namespace=self._own_namespace,
                root_keys=dict(self._root_keys),
                authorizations=tuple(self._authorizations.values()),
                namespaces=self._namespaces,
                records=self._records,
                held=self._held,
            )
        return self._policy

    async def confirm(self) -> None:
        """One consistent list for all who wait. Raises PolicyNotFresh."""
        if self._confirming is None:
            self._confirming = asyncio.create_task(self._confirm())
            self._confirming.add_done_callback(self._confirm_done)
        await asyncio.shield(self._confirming)

    def _confirm_done(self, task: "asyncio.Task[None]") -> None:
        self._confirming = None
        if not task.cancelled():
            task.exception()  # waiters get it; without any, it was logged

    async def _confirm(self) -> None:
        started = asyncio.get_running_loop().time()
        try:
            # Longer than the policy may be old, an answer proves nothing any more.
            async with asyncio.timeout(self._max_age):
                await asyncio.gather(self._root_key_objects.confirm(), self._authorization_objects.confirm())
        except (KeyshredError, TimeoutError) as error:
            log.warning("policy not confirmed: %s", error or type(error).__name__)
            raise PolicyNotFresh("keyshred cannot confirm its policy with the API server: try again") from error
        self._confirmed_at = started

    async def _confirm_under_traffic(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() - self._used_at > _IDLE:
                self._used.clear()
                await self._used.wait()
            if self.age > self._confirm_every / 2:
                with contextlib.suppress(PolicyNotFresh):  # each request finds out for itself
                    await self.confirm()
            await asyncio.sleep(self._confirm_every)

    def _collections(self) -> tuple[Collection, ...]:
        return (self._root_key_objects, self._authorization_objects, self._namespace_objects, self._record_objects)

    def _root_key_changed(self, name: str) -> None:
        self._policy = None
        self._root_keys.pop(name, None)
        if (obj := self._root_key_objects.objects.get(name)) is None:
            return
        try:
            self._root_keys[name] = RootKey.parse(obj)
        except Malformed:
            # As if it were not there: what it would seal is refused, and nobody else is troubled.
            log.error("RootKey %s cannot be read: correct it or delete it", name)

    def _authorization_changed(self, name: str) -> None:
        self._policy = None
        self._authorizations.pop(name, None)
        self._unreadable.discard(name)
        if (obj := self._authorization_objects.objects.get(name)) is None:
            return
        try:
            self._authorizations[name] = Authorization.parse(obj)
        except Malformed:
            # What it would protect is not known: to go on without it could store plaintext.
            log.error("KeyAuthorization %s cannot be read: nothing is decided until it is corrected or deleted", name)
            self._unreadable.add(name)

    def _namespace_changed(self, name: str) -> None:
        self._see(name, self._namespace_objects.objects.get(name))

    def _see(self, namespace: str, obj: Json | None) -> None:
        self._namespaces.pop(namespace, None)
        self._held.pop(namespace, None)
        if obj is None:
            return
        self._namespaces[namespace] = obj["metadata"].get("labels") or {}
        if held := (obj["metadata"].get("annotations") or {}).get(ANNOTATION_HELD):
            self._held[namespace] = frozenset(held.split(","))

    def _record_changed(self, name: str) -> None:
        obj = self._record_objects.objects.get(name) or {}
        # A record that vanishes does not undo a destruction that was seen.
        if state := (obj.get("status") or {}).get("state"):
            self._records[UUID(name)] = KeyState(state)
