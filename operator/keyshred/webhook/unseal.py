"""The unseal call (design contract, section 5): who asks, may they, open, and say so in the audit."""

import asyncio
import hashlib
import logging
import time
from base64 import b64encode
from dataclasses import dataclass, field
from uuid import UUID

import orjson
from aiohttp import web

from keyshred.envelope.context import Context
from keyshred.envelope.format import Envelope, looks_sealed, parse
from keyshred.errors import (
    CannotOpen,
    KeyGone,
    KeyMissing,
    KeyshredError,
    KubeUnavailable,
    NotAllowed,
    NotFound,
    Refused,
)
from keyshred.kube.client import Json, Kube, path
from keyshred.kube.events import Events
from keyshred.names import ANNOTATION_ENVELOPE, HEADER_CLEARED, HEADER_KEY_ID, WEBHOOK_SERVICE_ACCOUNT
from keyshred.observe import audit, metrics
from keyshred.observe.process import where
from keyshred.policy.authorizations import Caller, may_unseal
from keyshred.policy.pods import living, referred_secrets
from keyshred.policy.residual import has_files
from keyshred.policy.resources import SecretMeta
from keyshred.policy.secrets import decode_data
from keyshred.times import utc_now
from keyshred.webhook.keys import Keys
from keyshred.webhook.last_unseal import LastUnseals
from keyshred.webhook.problems import from_error, problem
from keyshred.webhook.refusals import Refusals
from keyshred.webhook.snapshot import Snapshot
from keyshred.webhook.tokens import Identity, Tokens

log = logging.getLogger(__name__)

_NO_KEY = UUID(int=0)


@dataclass(slots=True)
class _Call:
    """One call, as far as it got: what the audit line tells."""

    namespace: str
    name: str
    identity: Identity | None = None
    envelope: Envelope | None = None
    verdict: str = ""
    pod: Json | None = None
    """The calling pod, if it refers to the Secret."""


@dataclass(slots=True)
class Unsealing:
    """What the unseal call needs."""

    kube: Kube
    snapshot: Snapshot
    keys: Keys
    tokens: Tokens
    last_unseals: LastUnseals = field(init=False)
    refusals: Refusals = field(init=False)

    def __post_init__(self) -> None:
        self.last_unseals = LastUnseals(self.kube)
        self.refusals = Refusals(Events(self.kube, WEBHOOK_SERVICE_ACCOUNT))

    async def handle(self, request: web.Request) -> web.Response:
        """`POST /v1/namespaces/{namespace}/secrets/{name}/unseal`. Every call leaves one audit line."""
        started = time.perf_counter()
        call = _Call(request.match_info["namespace"], request.match_info["name"])
        try:
            response = await self._answer(call, request)
        except KeyshredError as error:
            call.verdict = error.verdict if isinstance(error, NotAllowed) else type(error).__name__
            response = from_error(error)
            if isinstance(error, KeyGone) and (volume := request.headers.get(HEADER_CLEARED)):
                self._note_cleared(call, volume)
            else:
                self.refusals.note(call.identity, call.namespace, call.name, response.status, str(error))
        except Exception as error:
            log.error("unseal failed: %s", where(error))
            call.verdict = "InternalError"
            response = problem(500, "internal-error", "keyshred failed to answer; nothing was given out")
        _audit(call, response.status)
        metrics.unsealed(response.status, time.perf_counter() - started)
        return response

    def _note_cleared(self, call: _Call, volume: str) -> None:
        """What the pod claims of a volume that it has; it was told why when it was refused without that claim."""
        if call.identity and call.envelope and call.pod and has_files(call.pod, volume, call.name):
            self.refusals.note_cleared(call.identity, call.name, volume, call.envelope.key_id)

    async def _answer(self, call: _Call, request: web.Request) -> web.Response:
        _check_names(call)
        call.identity = identity = await self.tokens.identify(request.headers.get("Authorization", ""))
        caller, secret = await self._caller_and_secret(identity, call)
        meta = SecretMeta.parse(secret)
        # By name, type and labels, before the envelope is read: nor what is damaged.
        may_unseal(await self.snapshot.policy(), call.namespace, meta, None, caller, utc_now())
        data = decode_data(secret)
        call.envelope = envelope = _envelope(secret, data, call)
        key_id = envelope.key_id if envelope else None
        policy = await self.snapshot.policy()
        served = may_unseal(policy, call.namespace, meta, key_id, caller, utc_now())
        etag = _etag(secret, key_id)
        headers = {"ETag": etag, "Cache-Control": "no-store"} | ({HEADER_KEY_ID: str(key_id)} if key_id else {})
        if etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        if envelope is not None:
            try:
                keys = await self.keys.unlock(envelope, policy.root_key(envelope.key_id))
            except KeyMissing:
                # Perhaps it was destroyed within the second that a policy may be old: then that is the answer.
                await self.snapshot.confirm()
                may_unseal(self.snapshot.current(), call.namespace, meta, key_id, caller, utc_now())
                raise
            data = {k: keys.open(k, v) for k, v in data.items()}
            # The token may have taken its time: what it opened is given out only if the policy still allows it.
            served = may_unseal(self.snapshot.current(), call.namespace, meta, key_id, caller, utc_now())
        self.last_unseals.note(served, utc_now())
        body = orjson.dumps({"data": {k: b64encode(v).decode() for k, v in data.items()}})
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _caller_and_secret(self, identity: Identity, call: _Call) -> tuple[Caller, Json]:
        """Who has no rights here gets NotAllowed, and does not learn what there is."""
        by_pod = bool(identity.pod_name) and identity.namespace == call.namespace
        caller = Caller(identity.namespace, identity.name, by_pod)
        # If the pod refers to the Secret: else it need not be looked at, nor the Secret.
        may_unseal(await self.snapshot.policy(), call.namespace, None, None, caller, utc_now())
        # Both at once, and judged one after the other.
        reading = asyncio.ensure_future(self._secret(call))
        try:
            if by_pod and not await self._refers(identity, call):
                caller = Caller(identity.namespace, identity.name, False)
                may_unseal(await self.snapshot.policy(), call.namespace, None, None, caller, utc_now())
            return caller, await reading
        finally:
            if reading.cancel():
                await asyncio.wait([reading])
            elif not reading.cancelled():
                reading.exception()  # seen, lest it be logged as if nobody had

    async def _refers(self, identity: Identity, call: _Call) -> bool:
        try:
            pod = await self.kube.get(path("pods", identity.pod_name, namespace=identity.namespace))
        except NotFound:
            return False
        except Refused as error:
            raise KubeUnavailable("keyshred may not read pods in this namespace yet: try again") from error
        if not living(pod, identity.pod_uid) or call.name not in referred_secrets(pod):
            return False
        call.pod = pod
        return True

    async def _secret(self, call: _Call) -> Json:
        try:
            return await self.kube.get(path("secrets", call.name, namespace=call.namespace))
        except NotFound:
            raise NotFound(f"there is no Secret {call.namespace}/{call.name}") from None
        except Refused as error:
            raise KubeUnavailable("keyshred may not read Secrets in this namespace yet: try again") from error


def _check_names(call: _Call) -> None:
    Context(_NO_KEY, call.namespace, call.name)  # raises Malformed for what is no Kubernetes name


def _envelope(secret: Json, data: dict[str, bytes], call: _Call) -> Envelope | None:
    """The envelope of a sealed Secret, None of an unsealed one. Raises MalformedEnvelope or CannotOpen for else."""
    text = (secret["metadata"].get("annotations") or {}).get(ANNOTATION_ENVELOPE)
    if text is None:
        if any(map(looks_sealed, data.values())):
            raise CannotOpen
        return None
    envelope = parse(text)
    if (envelope.namespace, envelope.name) != (call.namespace, call.name):
        raise CannotOpen
    return envelope


def _etag(secret: Json, key_id: UUID | None) -> str:
    """Of key ID and what is stored: ciphertext, or what is not sealed; given only to those who may read it."""
    annotation = (secret["metadata"].get("annotations") or {}).get(ANNOTATION_ENVELOPE, "")
    stored = orjson.dumps([str(key_id), annotation, secret.get("data") or {}], option=orjson.OPT_SORT_KEYS)
    return f'"{hashlib.sha256(stored).hexdigest()}"'


def _audit(call: _Call, status: int) -> None:
    identity, envelope = call.identity, call.envelope
    audit.write(
        "unseal",
        status=status,
        verdict=call.verdict or "Allowed",
        namespace=call.namespace[:253],
        secret=call.name[:253],
        serviceAccount=f"{identity.namespace}/{identity.name}" if identity else None,
        pod=identity.pod_name if identity else None,
        podUID=identity.pod_uid if identity else None,
        keyID=str(envelope.key_id) if envelope else None,
        keyVersion=envelope.key_version if envelope else None,
    )
