"""Nodes: a label where environments can come from files; the taint for new ones goes when the driver is there."""

import asyncio
import logging

from keyshred.controller.parts import Job, Kind, Parts
from keyshred.errors import Conflict, KeyshredError, NotFound
from keyshred.kube.client import METADATA_ONLY, path
from keyshred.kube.mirror import Mirror
from keyshred.names import TAINT_NOT_READY
from keyshred.policy import nodes

log = logging.getLogger(__name__)


class Nodes:
    """Follows Nodes and CSINodes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

        def changed() -> None:
            parts.enqueue(Job(Kind.NODES), 0)

        storage = {"group": "storage.k8s.io", "version": "v1"}
        self._nodes = Mirror(parts.kube, path("nodes"), nodes.read_node, changed)
        self._drivers = Mirror(parts.kube, path("csinodes", **storage), nodes.has_driver, changed)

    async def run(self) -> None:
        """Watches until cancelled."""
        await asyncio.gather(self._nodes.run(), self._drivers.run())

    async def reconcile(self) -> None:
        """One pass over all of them. What fails at one does not keep the others; raises the last that failed."""
        failed: KeyshredError | None = None
        for name, node in list(self._nodes.objects.items()):
            try:
                await self._one(name, node)
            except NotFound:
                pass  # it went meanwhile
            except KeyshredError as error:
                log.warning("node %s: %s", name, error)
                failed = error
        if failed is not None:
            raise failed

    async def _one(self, name: str, node: nodes.Node) -> None:
        if change := nodes.label_change(node):
            await self._parts.kube.patch(path("nodes", name), {"metadata": {"labels": change}}, accept=METADATA_ONLY)
        if nodes.waits(node, self._drivers.objects.get(name, False)):
            await self._open(name)

    async def _open(self, name: str) -> None:
        """Takes the taint off. A list cannot be merged, so it is written whole, and only as it was read."""
        whole = await self._parts.kube.get(path("nodes", name))
        taints = [t for t in whole["spec"].get("taints") or () if t["key"] != TAINT_NOT_READY]
        body = {"metadata": {"resourceVersion": whole["metadata"]["resourceVersion"]}, "spec": {"taints": taints}}
        try:
            await self._parts.kube.patch(path("nodes", name), body, accept=METADATA_ONLY)
        except Conflict:
            self._parts.enqueue(Job(Kind.NODES), 0)
            return
        log.info("node %s: the driver is there, the taint %s is off", name, TAINT_NOT_READY)
