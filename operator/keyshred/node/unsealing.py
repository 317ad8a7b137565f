"""The unseal call from a node, with the token of the pod that gets the values."""

import asyncio
import ssl
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from keyshred.errors import (
    CannotOpen,
    KeyGone,
    KeyNotUsable,
    KeyshredError,
    NotAuthenticated,
    NotFound,
    NotReady,
)
from keyshred.names import HEADER_CLEARED, HEADER_KEY_ID

_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, connect=5)
_ATTEMPTS: Final = 3
_PAUSE: Final = 0.5
"""Seconds before a further attempt: another replica may be able to answer."""
_MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes; a Secret of 1 MiB is 1.4 MiB of base64, and its keys and quotes."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What came back. `values` None: they are what they were when this ETag was given."""

    etag: str
    values: Mapping[str, bytes] | None = field(repr=False)
    key_id: str = ""
    """The key that they are sealed under; empty: they are not sealed."""


class Unsealing:
    """Calls the webhook's Service; the CA file is read anew when it changed."""

    def __init__(self, url: str, ca: Path) -> None:
        self._url = url.rstrip("/")
        self._ca = ca
        self._seen: tuple[int, int] | None = None
        self._tls: ssl.SSLContext | None = None
        self._http = aiohttp.ClientSession(
            timeout=_TIMEOUT, auto_decompress=False, read_bufsize=2**18, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._http.close()

    async def unseal(self, namespace: str, name: str, token: str, etag: str = "", cleared: str = "") -> Opened:
        """The values, or that they are unchanged since `etag`. `cleared`: the pod's volume that held them, emptied.

        Raises NotFound, KeyGone (destroyed), KeyNotUsable (not authorised, suspended or pending), NotAuthenticated,
        CannotOpen (damaged), or NotReady where nobody answers in time.
        """
        headers = ({"If-None-Match": etag} if etag else {}) | ({HEADER_CLEARED: cleared} if cleared else {})
        answer = await self._patiently(
            "POST",
            f"/v1/namespaces/{namespace}/secrets/{name}/unseal",
            token,
            headers,
            f"Secret {name} in namespace {namespace}",
        )
        if answer.status == 304:
            return Opened(answer.etag, None, answer.key_id)
        try:
            values = {k: b64decode(v, validate=True) for k, v in orjson.loads(answer.body)["data"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NotReady("keyshred's webhook answered what cannot be read: try again") from None
        return Opened(answer.etag, values, answer.key_id)

    async def is_destroyed(self, key_id: str, token: str) -> bool:
        """Whether that key is. Raises NotAuthenticated, or NotReady where nobody answers in time."""
        try:
            await self._patiently("GET", f"/v1/keys/{key_id}", token, {}, f"key {key_id}")
        except KeyGone:
            return True
        return False

    async def _patiently(self, method: str, path: str, token: str, headers: Mapping[str, str], what: str) -> "_Answer":
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE * attempt)
            try:
                answer = await self._ask(method, path, {**headers, "Authorization": f"Bearer {token}"})
                answer.check(what)
            except NotReady:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return answer
        raise AssertionError

    async def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> "_Answer":
        try:
            async with self._http.request(
                method, self._url + path, headers=headers, ssl=self._context(), allow_redirects=False
            ) as answer:
                body = await answer.content.read(_MAX_BODY + 1)
                while len(body) <= _MAX_BODY and (more := await answer.content.read(_MAX_BODY + 1)):
                    body += more
                etag, key_id = answer.headers.get("ETag", ""), answer.headers.get(HEADER_KEY_ID, "")
                return _Answer(answer.status, etag, key_id, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Its text could quote the request.
            raise NotReady(f"keyshred's webhook does not answer ({type(error).__name__}): try again") from None

    def _context(self) -> ssl.SSLContext:
        try:
            stat = self._ca.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
            if self._tls is None or self._seen != seen:
                self._tls, self._seen = ssl.create_default_context(cafile=str(self._ca)), seen
        except (OSError, ssl.SSLError) as error:
            raise NotReady(f"the CA in {self._ca} cannot be read yet ({type(error).__name__})") from error
        return self._tls


@dataclass(frozen=True, slots=True)
class _Answer:
    """Of the webhook."""

    status: int
    etag: str
    key_id: str
    body: bytes = field(repr=False)

    def check(self, what: str) -> None:
        """Raises the error that the answer stands for."""
        if self.status not in (200, 204, 304) or len(self.body) > _MAX_BODY:
            raise _error(self.status, self.body, what)


def _error(status: int, body: bytes, what: str) -> KeyshredError:
    reason = f"{what}: {_detail(body)}"
    match status:
        case 401:
            return NotAuthenticated(reason)
        case 403:
            # Told apart by what the body says: only one who may unseal learns of the key's state.
            return KeyNotUsable(reason)
        case 404:
            return NotFound(reason)
        case 410:
            return KeyGone(reason)
        case 422:
            return CannotOpen()
        case _:
            return NotReady(f"{reason} (HTTP {status})")


def _detail(body: bytes) -> str:
    """What an RFC 9457 body says to a person."""
    try:
        problem = orjson.loads(body)
        text = problem.get("detail") or problem.get("title")
        return text if isinstance(text, str) else "refused"
    except (orjson.JSONDecodeError, AttributeError):
        return "refused"
