"""A webhook and a pod's volume, for tests of what a publish does."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keyshred.errors import KeyshredError, NotFound
from keyshred.node.holdings import Holdings
from keyshred.node.publishing import TOKENS, Publisher, Request
from keyshred.node.unsealing import Opened
from keyshred.policy.volumes import Content, Files, Source, attributes

UID = "0f1e"


@dataclass
class Secrets:
    """What the webhook would say, and how often it was asked."""

    stored: dict[str, dict[str, bytes] | KeyshredError] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """By Secret: the key that it is sealed under."""
    destroyed: set[str] = field(default_factory=set)
    """Keys."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    cleared: list[tuple[str, str]] = field(default_factory=list)
    """Secret, and the volume that was said to be cleared of it."""

    async def is_destroyed(self, key_id: str, token: str) -> bool:
        self.asked.append((key_id, "is destroyed?"))
        return key_id in self.destroyed

    async def unseal(self, namespace: str, name: str, token: str, etag: str = "", cleared: str = "") -> Opened:
        self.asked.append((name, etag))
        if cleared:
            self.cleared.append((name, cleared))
        self.tokens.add(token)
        found = self.stored.get(name, NotFound(f"Secret {name} in namespace {namespace}: not found"))
        if isinstance(found, KeyshredError):
            raise found
        now = f'"{sorted(found.items())!r}"'
        return Opened(now, None if etag == now else found, self.keys.get(name, ""))


class Volume:
    """One volume of a pod."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self.target = folder / "pods" / UID / "volumes" / "kubernetes.io~csi" / "v" / "mount"
        self.target.parent.mkdir(parents=True)
        self.secrets = secrets
        self.folder = folder
        self.start_anew()

    def start_anew(self) -> None:
        """As a driver that knows nothing but what is on the disk."""
        self.publisher = Publisher(self.secrets, self.folder, Holdings(self.folder / "known"))

    def request(self, content: Content, **changes: Any) -> Request:
        context = {
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": "p",
            "csi.storage.k8s.io/pod.namespace": "ns",
            "csi.storage.k8s.io/pod.uid": UID,
        }
        tokens = json.dumps({"keyshred.dev": {"token": "the-token"}})
        return Request(
            changes.get("target", self.target),
            attributes(content) | context | changes.get("context", {}),
            changes.get("secrets", {TOKENS: tokens}),
            changes.get("group"),
        )

    async def publish(self, *sources: Source, **changes: Any) -> None:
        await self.publisher.publish(self.request(Files(sources), **changes))

    @property
    def files(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.target.iterdir() if not p.name.startswith("..")}
