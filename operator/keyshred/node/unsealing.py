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
from keyshred.names import HEADER_CLEARED

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
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE * attempt)
            try:
                return await self._ask(namespace, name, token, etag, cleared)
            except NotReady:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    async def _ask(self, namespace: str, name: str, token: str, etag: str, cleared: str) -> Opened:
        headers = {"Authorization": f"Bearer {token}"} | ({"If-None-Match": etag} if etag else {})
        headers |= {HEADER_CLEARED: cleared} if cleared else {}
        url = f"{self._url}/v1/namespaces/{namespace}/secrets/{name}/unseal"
        try:
            async with self._http.post(url, headers=headers, ssl=self._context(), allow_redirects=False) as answer:
                body = await answer.content.read(_MAX_BODY + 1)
                while len(body) <= _MAX_BODY and (more := await answer.content.read(_MAX_BODY + 1)):
                    body += more
                return _read(answer.status, answer.headers.get("ETag", ""), body, namespace, name)
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


def _read(status: int, etag: str, body: bytes, namespace: str, name: str) -> Opened:
    if status == 304:
        return Opened(etag, None)
    if status == 200 and len(body) <= _MAX_BODY:
        try:
            return Opened(etag, {k: b64decode(v, validate=True) for k, v in orjson.loads(body)["data"].items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NotReady("keyshred's webhook answered what cannot be read: try again") from None
    raise _error(status, body, f"Secret {name} in namespace {namespace}")


def _error(status: int, body: bytes, secret: str) -> KeyshredError:
    reason = f"{secret}: {_detail(body)}"
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
