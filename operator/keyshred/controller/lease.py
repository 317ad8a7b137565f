"""One active controller: a Lease (coordination.k8s.io/v1), taken and renewed by compare-and-swap.

kubernetes.aio has a leader election, but it goes by the wall clock, counts from the end of the renewing call, and
cannot say whether the Lease is held at this moment: that answer is what each change in the HSM waits for.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any, Final

from keyshred.errors import Conflict, KeyshredError, NotFound, Retry
from keyshred.kube.client import Json, Kube, path
from keyshred.times import stamp, utc_now

log = logging.getLogger(__name__)

_GROUP: Final = {"group": "coordination.k8s.io", "version": "v1"}


class Lease:
    """A Lease and this process's hold on it. `clock` counts seconds and never goes back."""

    def __init__(
        self, kube: Kube, namespace: str, name: str, *, duration: float, margin: float, clock: Callable[[], float]
    ) -> None:
        """`margin`: seconds that a step may take after `check`; it has to be well below `duration`."""
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._duration = duration
        self._margin = margin
        self._clock = clock
        self._identity = str(uuid.uuid4())
        self._held_until = float("-inf")
        self._seen: tuple[str, float] = ("", float("-inf"))
        """Version of the Lease that somebody else holds, and when it was first seen."""

    @property
    def holds(self) -> bool:
        """Whether it is held for `margin` seconds more, whatever happens."""
        return self._clock() + self._margin < self._held_until

    def check(self) -> None:
        """Raises Conflict unless `holds`: asked before each change in the HSM."""
        if not self.holds:
            raise Conflict("the Lease is not renewed: another controller may be at work")

    async def acquire(self) -> None:
        """Returns once the Lease is held."""
        waiting = False
        while True:
            try:
                if await self._try():
                    log.info("Lease %s/%s is held", self._namespace, self._name)
                    return
            except (Retry, Conflict) as error:
                log.warning("Lease %s/%s: %s", self._namespace, self._name, error)
            if not waiting:
                log.info("waiting for the Lease %s/%s", self._namespace, self._name)
                waiting = True
            await asyncio.sleep(self._duration / 10)

    async def keep(self) -> None:
        """Renews until it is lost; then raises Conflict."""
        while True:
            await asyncio.sleep(self._duration / 3)
            try:
                held = await self._try()
            # An API server that has just started may know no roles yet, and answers 403 to those who have them.
            except KeyshredError as error:
                log.warning("Lease %s/%s not renewed: %s", self._namespace, self._name, error)
                held = self._clock() < self._held_until
            if not held:
                raise Conflict(f"the Lease {self._namespace}/{self._name} is lost: another controller takes over")

    async def release(self) -> None:
        """Gives it back, so that the next one need not wait. Never raises what the API server says."""
        if self._clock() >= self._held_until:
            return
        self._held_until = float("-inf")
        try:
            lease = await self._kube.get(self._path(self._name))
            if lease["spec"].get("holderIdentity") == self._identity:
                await self._kube.replace(
                    self._path(self._name), lease | {"spec": lease["spec"] | {"holderIdentity": ""}}
                )
        except KeyshredError as error:
            log.warning("Lease %s/%s not given back: %s", self._namespace, self._name, error)

    async def _try(self) -> bool:
        # From before the calls: the others count from when they see the new version, which is later.
        started = self._clock()
        now = stamp(utc_now())
        try:
            lease = await self._kube.get(self._path(self._name))
        except NotFound:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": self._spec({}, now),
            }
            await self._kube.create(self._path(), body)
        else:
            spec = lease.get("spec") or {}
            holder = spec.get("holderIdentity") or ""
            if holder not in ("", self._identity) and not self._expired(lease["metadata"]["resourceVersion"], spec):
                return False
            await self._kube.replace(self._path(self._name), lease | {"spec": self._spec(spec, now)})
        self._held_until = started + self._duration
        return True

    def _expired(self, version: str, spec: Json) -> bool:
        # By our own clock alone, from when we saw this version first: clocks of two nodes need not agree.
        if self._seen[0] != version:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] > max(self._duration, spec.get("leaseDurationSeconds") or 0)

    def _spec(self, old: Json, now: str) -> dict[str, Any]:
        mine = old.get("holderIdentity") == self._identity
        return old | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "renewTime": now,
            "acquireTime": old["acquireTime"] if mine else now,
            "leaseTransitions": (old.get("leaseTransitions") or 0) + (0 if mine else 1),
        }

    def _path(self, name: str = "") -> str:
        return path("leases", name, namespace=self._namespace, **_GROUP)
