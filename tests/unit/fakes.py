"""Stand-ins for the API server and the token, for unit tests of what is decided between them."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyshred.envelope.format import Mechanism
from keyshred.errors import CannotOpen, Conflict, KeyMissing, NotFound, PolicyNotFresh
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from keyshred.kube.client import METADATA_LIST, Kube
from keyshred.names import LABEL_SEALING, KeyState
from keyshred.policy.authorizations import Policy
from keyshred.policy.resources import Authorization, RootKey
from keyshred.webhook.snapshot import Snapshot
from keyshred.webhook.wraps import Wraps

Json = dict[str, Any]

KEY_A = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
KEY_B = uuid.UUID("bbbbbbbb-0000-4000-8000-000000000002")
CHECK_VALUE = "ab" * 16
NOW = datetime.now(UTC)


async def settle() -> None:
    """Lets all tasks go on until they wait for something that will not come."""
    for _ in range(20):
        await asyncio.sleep(0)


class FakeToken:
    """Wraps DEKs with AES-GCM in this process. `error`, once set, is what every call raises."""

    def __init__(self, *key_ids: uuid.UUID) -> None:
        self.keys = {KeyRef(k, 1): AESGCM(os.urandom(32)) for k in key_ids}
        self.error: Exception | None = None
        self.calls: list[str] = []
        self.check = bytes.fromhex(CHECK_VALUE)

    @property
    def service(self) -> HsmService:
        """This, as what it stands for."""
        return cast(HsmService, self)

    async def ready(self) -> None:
        if self.error is not None:
            raise self.error

    async def check_value(self, ref: KeyRef) -> bytes:
        self._key("check_value", ref)
        return self.check

    async def wrap(self, ref: KeyRef, mechanism: Mechanism, dek: bytes) -> bytes:
        key, iv = self._key("wrap", ref), os.urandom(12)
        return iv + key.encrypt(iv, dek, ref.aad)

    async def unwrap(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bytes:
        try:
            return self._key("unwrap", ref).decrypt(wrapped[:12], wrapped[12:], ref.aad)
        except InvalidTag:
            raise CannotOpen from None

    def _key(self, call: str, ref: KeyRef) -> AESGCM:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        if ref not in self.keys:
            raise KeyMissing("no such key")
        return self.keys[ref]


class FixedSnapshot:
    """A policy that is always fresh, until it is None."""

    def __init__(self, policy: Policy | None) -> None:
        self.now: Policy | None = policy
        self.next: Policy | None = None
        """What it will be when it is confirmed."""

    @property
    def snapshot(self) -> Snapshot:
        """This, as what it stands for."""
        return cast(Snapshot, self)

    async def policy(self, namespace: str = "") -> Policy:
        return self.current()

    async def confirm(self) -> None:
        self.now = self.next or self.now

    def current(self) -> Policy:
        if self.now is None:
            raise PolicyNotFresh("not confirmed: try again")
        return self.now


class Uncounted:
    """As many wraps as one likes; `taken` counts them. `due` says that the key is to be rotated."""

    due = False
    taken = 0

    @property
    def wraps(self) -> Wraps:
        """This, as what it stands for."""
        return cast(Wraps, self)

    async def take(self, ref: KeyRef, root_key: str) -> None:
        self.taken += 1

    def rotation_due(self, ref: KeyRef) -> bool:
        return self.due


class FakeKube:
    """Objects of collections by URL, with one resource version for all, and their watches. `hang` blocks reading."""

    def __init__(self, *collections: str) -> None:
        self.objects: dict[str, dict[str, Json]] = {c: {} for c in collections}
        self.version = 10
        self.events: dict[str, asyncio.Queue[Json | Exception]] = {c: asyncio.Queue() for c in collections}
        self.hang: asyncio.Event | None = None
        self.errors: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.created: list[tuple[str, Json]] = []
        self.patched: list[tuple[str, Json]] = []
        self.answer: Json = {}
        self.after_list: Callable[[], object] | None = None
        """What happens once between a list and the arrival of its answer."""

    @property
    def kube(self) -> Kube:
        """This, as what it stands for."""
        return cast(Kube, self)

    def put(self, url: str, name: str, *, notify: bool = True, **fields: Any) -> Json:
        """Creates or replaces an object."""
        self.version += 1
        kind = "MODIFIED" if name in self.objects[url] else "ADDED"
        meta = {"name": name, "resourceVersion": str(self.version)} | fields.pop("metadata", {})
        obj = {"metadata": meta} | fields
        self.objects[url][name] = obj
        if notify:
            self.events[url].put_nowait({"type": kind, "object": obj})
        return obj

    def remove(self, url: str, name: str, *, notify: bool = True) -> None:
        """Deletes an object."""
        self.version += 1
        obj = self.objects[url].pop(name)
        if notify:
            gone = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.version)}}
            self.events[url].put_nowait({"type": "DELETED", "object": gone})

    async def get(self, url: str, *, accept: str = "application/json", params: Mapping[str, str] | None = None) -> Json:
        self.calls.append(url)
        if self.hang is not None:
            await self.hang.wait()
        if url in self.errors:
            raise self.errors[url]
        if url in self.objects:
            items: list[Json] | None = [
                {"metadata": o["metadata"]} if accept == METADATA_LIST else o for o in self.objects[url].values()
            ]
            listed = {"metadata": {"resourceVersion": str(self.version)}, "items": items or None}
            if self.after_list is not None:
                happen, self.after_list = self.after_list, None
                happen()
                await settle()
            return listed
        collection, _, name = url.rpartition("/")
        if name not in self.objects.get(collection, {}):
            raise NotFound(url)
        return self.objects[collection][name]

    async def create(self, url: str, body: Json) -> Json:
        self.created.append((url, body))
        if url in self.errors:
            raise self.errors[url]
        if url not in self.objects:
            return self.answer
        name = body["metadata"]["name"]
        if name in self.objects[url]:
            raise Conflict(name)
        return self.put(url, name, **{k: v for k, v in body.items() if k != "metadata"})

    async def replace(self, url: str, body: Json) -> Json:
        collection, _, name = url.removesuffix("/status").rpartition("/")
        if body["metadata"]["resourceVersion"] != self.objects[collection][name]["metadata"]["resourceVersion"]:
            raise Conflict(name)
        return self.put(collection, name, **{k: v for k, v in body.items() if k != "metadata"})

    async def patch(self, url: str, body: Json, *, accept: str = "application/json") -> Json:
        self.patched.append((url, body))
        if url in self.errors:
            raise self.errors[url]
        return {}

    async def watch(self, url: str, resource_version: str, **_: Any) -> AsyncIterator[Json]:
        while True:
            event = await self.events[url].get()
            if isinstance(event, Exception):
                raise event
            yield event


def root_key(name: str = "rk", key_id: uuid.UUID | None = KEY_A, state: str = "Active", **spec: Any) -> Json:
    """A RootKey with one version, as the API has it."""
    metadata = {"name": name, "uid": f"uid-{name}"}
    if spec.pop("deleting", False):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    version = {"version": 1, "mechanism": "AES_GCM", "checkValue": CHECK_VALUE}
    return {
        "metadata": metadata,
        "spec": ({"keyID": str(key_id)} if key_id else {}) | spec,
        "status": {"state": state, "currentVersion": 1, "versions": [version]},
    }


def authorization(name: str = "ka", *, root_key: str = "rk", key_id: uuid.UUID | None = KEY_A, **spec: Any) -> Json:
    """A KeyAuthorization for namespace `ns`, as the API has it."""
    metadata = {"name": name}
    if spec.pop("deleting", False):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    ref = {"name": root_key} | ({"keyID": str(key_id)} if key_id else {})
    return {"metadata": metadata, "spec": {"rootKeyRef": ref, "namespaces": {"names": ["ns"]}} | spec}


SEALING = {LABEL_SEALING: "enabled"}


def policy(
    *objects: Json,
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
    records: Mapping[uuid.UUID, KeyState] | None = None,
    held: Mapping[str, frozenset[str]] | None = None,
) -> Policy:
    """From RootKeys and KeyAuthorizations; namespace `ns` is sealing if no other is named."""
    keys = [RootKey.parse(o) for o in objects if "rootKeyRef" not in o["spec"]]
    return Policy(
        own_namespace="keyshred",
        root_keys={k.name: k for k in keys},
        authorizations=tuple(Authorization.parse(o) for o in objects if "rootKeyRef" in o["spec"]),
        namespaces={"ns": SEALING} if namespaces is None else namespaces,
        records=records or {},
        held=held or {},
    )
