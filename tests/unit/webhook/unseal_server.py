"""The webhook's routes over stand-ins, for tests of the unseal call."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from keyshred.config import WebhookSettings, read
from keyshred.envelope.format import Born, serialise
from keyshred.kube.client import path
from keyshred.kube.records import Records
from keyshred.names import ANNOTATION_ENVELOPE
from keyshred.policy.resources import RootKey
from keyshred.webhook.board import Board
from keyshred.webhook.compare_limit import CompareLimit
from keyshred.webhook.guard import Guard
from keyshred.webhook.key_states import KeyStates
from keyshred.webhook.keys import Keys
from keyshred.webhook.namespaces import NamespaceAdmission
from keyshred.webhook.pods import PodAdmission
from keyshred.webhook.readiness import Readiness
from keyshred.webhook.secrets import SecretAdmission
from keyshred.webhook.server import Parts, application
from keyshred.webhook.tokens import Tokens
from keyshred.webhook.unseal import Unsealing
from tests.unit.fakes import (
    KEY_A,
    NOW,
    FakeKube,
    FakeToken,
    FixedSnapshot,
    Uncounted,
    authorization,
    policy,
    root_key,
)

Json = dict[str, Any]
PODS, SECRETS, EVENTS = (path(resource, namespace="ns") for resource in ("pods", "secrets", "events"))
POD: Json = {"status": {"phase": "Running"}, "spec": {"volumes": [{"secret": {"secretName": n}} for n in ("s", "t")]}}
VALUES = {"a": b"one", "empty": b"", "binary": bytes(range(256))}
ANYONE: Json = {"subjects": [{"namespace": "ns", "name": "app", "allowUnbound": True}]}


class Server:
    """The webhook's routes over stand-ins; Secret ns/s is sealed, pod ns/p refers to it."""

    client: "TestClient[Any, Any]"
    unsealing: Unsealing

    def __init__(self) -> None:
        self.kube = FakeKube(PODS, SECRETS)
        self.token = FakeToken(KEY_A)
        self.snapshot = FixedSnapshot(policy(root_key(), authorization()))
        self.readiness = Readiness(Board(1), 0, self._trial, patience=10)
        self.caller("ns", "app", "p", "uid-p")
        self.kube.put(PODS, "p", metadata={"uid": "uid-p"}, **POD)

    async def _trial(self) -> None:
        self.snapshot.current()
        await self.token.ready()

    def caller(self, namespace: str, name: str, pod: str = "", uid: str = "") -> None:
        """Whose token it is."""
        extra = {"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]}
        user = {"username": f"system:serviceaccount:{namespace}:{name}", "extra": extra}
        self.kube.answer = {"status": {"authenticated": True, "audiences": ["keyshred.dev"], "user": user}}

    async def seal(self, values: Mapping[str, bytes]) -> Json:
        """Stores a sealed Secret, ns/s."""
        key = RootKey.parse(root_key())
        keys, envelope = await Keys(self.token.service, Uncounted().wraps).new(key, KEY_A, "ns", "s", Born.SEALED, NOW)
        data = {k: base64.b64encode(keys.seal(k, v)).decode() for k, v in values.items()}
        self.token.calls.clear()
        return self.store("s", data, serialise(envelope))

    def store(self, name: str, data: Json, envelope: str | None = None, **fields: Any) -> Json:
        """Stores a Secret as it is given."""
        annotations = {} if envelope is None else {ANNOTATION_ENVELOPE: envelope}
        return self.kube.put(SECRETS, name, metadata={"annotations": annotations}, data=data, **fields)

    async def unseal(self, name: str = "s", namespace: str = "ns", **headers: str) -> tuple[int, Any, Any]:
        """Status, body and headers. A token without expiry is reviewed at each call."""
        asked = {"Authorization": "Bearer e30.e30.x"} | {k.replace("_", "-"): v for k, v in headers.items()}
        url = f"/v1/namespaces/{namespace}/secrets/{name}/unseal"
        async with self.client.post(url, headers=asked) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else None, response.headers

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves."""
        keys, tokens = Keys(self.token.service, Uncounted().wraps), Tokens(self.kube.kube, 10)
        self.unsealing = Unsealing(self.kube.kube, self.snapshot.snapshot, keys, tokens)
        parts = Parts(
            readiness=self.readiness,
            secrets=SecretAdmission(self.snapshot.snapshot, keys, CompareLimit(10, time.monotonic)),
            guard=Guard(self.kube.kube, self.snapshot.snapshot, Records(self.kube.kube)),
            namespaces=NamespaceAdmission(self.snapshot.snapshot),
            pods=PodAdmission(self.kube.kube, self.snapshot.snapshot, "image", "IfNotPresent"),
            unsealing=self.unsealing,
            key_states=KeyStates(self.snapshot.snapshot, tokens),
        )
        required = {"token_uri": "x", "tls_cert": "x", "tls_key": "x", "max_body": "4096"}
        async with TestClient(TestServer(application(read(WebhookSettings, required, {}), parts))) as self.client:
            trying = asyncio.create_task(self.readiness.run())
            yield
            trying.cancel()
