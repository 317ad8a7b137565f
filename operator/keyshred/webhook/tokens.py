"""Who calls: bearer tokens of ServiceAccounts, by TokenReview."""

import base64
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import orjson

from keyshred.errors import KubeUnavailable, NotAuthenticated, Refused
from keyshred.kube.client import Kube, path
from keyshred.names import AUDIENCE

_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_MAX_CACHED: Final = 10_000
_MAX_TOKEN: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """A ServiceAccount, and the pod that its token is bound to, if any."""

    namespace: str
    name: str
    pod_name: str = ""
    pod_uid: str = ""


class Tokens:
    """TokenReviews, kept for `ttl` seconds and never past the token's own expiry; refusals are not kept."""

    def __init__(self, kube: Kube, ttl: float) -> None:
        self._kube = kube
        self._ttl = ttl
        self._cache: OrderedDict[bytes, tuple[float, float, Identity]] = OrderedDict()

    async def identify(self, authorization: str) -> Identity:
        """From the header's text. Raises NotAuthenticated, KubeUnavailable."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated("send a ServiceAccount token as 'Authorization: Bearer'")
        if len(token) > _MAX_TOKEN or not token.isascii():
            raise NotAuthenticated("the bearer token is no ServiceAccount token")
        digest = hashlib.sha256(token.encode()).digest()
        # Both clocks: one that is set back must not make an answer last, and a token expires by the wall.
        now, wall = time.monotonic(), time.time()
        cached = self._cache.get(digest)
        if cached is not None and now < cached[0] and wall < cached[1]:
            return cached[2]
        identity = await self._review(token)
        self._cache[digest] = (now + self._ttl, _expiry(token), identity)
        self._cache.move_to_end(digest)
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return identity

    async def _review(self, token: str) -> Identity:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        try:
            review = await self._kube.create(path("tokenreviews", group="authentication.k8s.io", version="v1"), body)
        except Refused as error:
            raise KubeUnavailable("keyshred may not review tokens: try again") from error
        status: dict[str, Any] = review.get("status") or {}
        # An authenticator that knows no audiences answers without any: that proves nothing about ours.
        if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or ()):
            raise NotAuthenticated(f"the token is not valid, has expired, or is not for the audience {AUDIENCE}")
        user = status.get("user") or {}
        username: str = user.get("username") or ""
        namespace, _, name = username.removeprefix(_SERVICE_ACCOUNT).partition(":")
        if not username.startswith(_SERVICE_ACCOUNT) or not name:
            raise NotAuthenticated("only ServiceAccounts may unseal")
        extra = user.get("extra") or {}
        return Identity(namespace, name, _first(extra.get(_POD_NAME)), _first(extra.get(_POD_UID)))


def _first(values: list[str] | None) -> str:
    return values[0] if values else ""


def _expiry(token: str) -> float:
    """The `exp` claim in Unix seconds (RFC 7519 section 4.1.4) of a token that was reviewed; 0 if there is none.

    The signature was checked by the API server; here the claim only shortens the time that its answer is kept.
    """
    try:
        claims = token.split(".")[1]
        return float(orjson.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        return 0.0
