"""Events (core/v1) on keyshred's objects: what `kubectl describe` shows."""

import logging
import uuid
from collections.abc import Mapping
from typing import Any, Final

from keyshred.errors import KeyshredError
from keyshred.kube.client import Kube, path
from keyshred.names import Reason
from keyshred.times import rfc3339, utc_now

log = logging.getLogger(__name__)

_NAMESPACE: Final = "default"
"""Where the API server wants Events of cluster-scoped objects."""
_MAX_MESSAGE: Final = 1024


class Events:
    """Posts Events; one that cannot be posted is logged, and stops nothing."""

    def __init__(self, kube: Kube, component: str) -> None:
        self._kube = kube
        self._component = component

    async def post(self, about: Mapping[str, Any], reason: Reason, message: str, *, warning: bool = False) -> None:
        """One Event about an object that has apiVersion, kind and metadata."""
        meta, now = about["metadata"], rfc3339(utc_now())
        namespace = meta.get("namespace") or _NAMESPACE
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                "uid": meta["uid"],
            }
            | ({"namespace": namespace} if "namespace" in meta else {}),
            "type": "Warning" if warning else "Normal",
            "reason": reason.value,
            "message": message[:_MAX_MESSAGE],
            "source": {"component": self._component},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._kube.create(path("events", namespace=namespace), event)
        except KeyshredError as error:
            log.warning("event %s about %s %s not posted: %s", reason, about["kind"], meta["name"], error)
