"""Counts what running pods hold of a destroyed key's Secrets, and what of it was cleared."""

import asyncio
import logging
from collections.abc import Set
from dataclasses import replace
from typing import Final
from uuid import UUID

from keyshred.controller import dependents
from keyshred.controller.ledger import Ledger
from keyshred.controller.parts import BY, Parts, key_id_of
from keyshred.errors import KeyshredError
from keyshred.kube.client import Json, path
from keyshred.names import Reason
from keyshred.policy import destruction as policy
from keyshred.policy import residual
from keyshred.policy.ledger import Action
from keyshred.policy.pod_terms import at, listed
from keyshred.policy.residual import Cleared, Residual
from keyshred.policy.volumes import DRIVER

log = logging.getLogger(__name__)

_SECONDS: Final = 5.0
"""What the first count may delay a KeyRecord's Destroyed by."""


class Residuals:
    """By consistent lists of pods and Events, where there are dependents; the token has no part in it."""

    def __init__(self, parts: Parts, ledger: Ledger) -> None:
        self._parts = parts
        self._ledger = ledger

    async def at_destruction(self, key_id: UUID) -> Residual | None:
        """What there is to clear; None: not known in time, which keeps nothing from being destroyed."""
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._count(key_id)
        except (KeyshredError, TimeoutError) as error:
            log.warning("key %s: what pods hold is not counted yet: %s", key_id, error or type(error).__name__)
        except Exception as error:
            # Its text stays out of the log: it could quote a pod.
            log.error("key %s: what pods hold is not counted yet: %s", key_id, type(error).__name__)
        return None

    async def count_again(self, record: Json) -> Json:
        """The KeyRecord with what was cleared by now, and what was not. Raises Conflict, and what `Kube` raises."""
        counted = await self._count(key_id_of(record))
        return await self._ledger.write(
            record,
            action=Action.RESIDUAL_COUNTED,
            by=BY,
            detail=str(counted),
            changes=policy.residual_counted(counted),
        )

    async def _count(self, key_id: UUID) -> Residual:
        kube, found = self._parts.kube, Residual()
        for namespace, names in (await dependents.names(kube, key_id, self._parts.index)).items():
            # Events first: a pod that goes meanwhile counts nowhere, one that is cleared meanwhile as not reached.
            events = path("events", namespace=namespace)
            fields = f"involvedObject.kind=Pod,reason={Reason.VOLUME_CLEARED}"
            told = [residual.cleared_by(e, key_id) async for e in kube.list_all(events, fields=fields)]
            cleared = frozenset(c for c in told if c is not None)
            async for pod in kube.list_all(path("pods", namespace=namespace)):
                found = _with(found, pod, names, cleared)
        return found


def _with(found: Residual, pod: Json, names: Set[str], cleared: Set[Cleared]) -> Residual:
    """With one pod more. Of one that cannot be read, all volumes of ours count as not reached: it may hold anything."""
    counted = replace(found)
    try:
        counted.add(pod, names, cleared)
    except Exception as error:
        meta = pod["metadata"]
        log.error("pod %s/%s cannot be read: %s", meta.get("namespace"), meta["name"], type(error).__name__)
        ours = sum(at(volume, "csi", "driver") == DRIVER for volume in listed(pod, "spec", "volumes"))
        return replace(found, unreached=found.unreached + ours)
    return counted
