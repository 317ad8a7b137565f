"""TLS of the webhook's one port: its certificates, from files that may change while it serves."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from pathlib import Path
from typing import Final

from aiohttp import web
from cryptography import x509

from keyshred.config import WebhookSettings
from keyshred.errors import ConfigInvalid, NotReady, Refused

log = logging.getLogger(__name__)

_POLL: Final = 2.0
"""Seconds between looks at the files; a kubelet takes up to a minute or two to bring new ones."""
_HANDSHAKE: Final = 10.0
"""Seconds that a client has for its handshake."""
_FULL: Final = 0.1
"""Seconds without accepting where the process has no file descriptor left."""


def server_context(settings: WebhookSettings) -> ssl.SSLContext:
    """TLS 1.2 and later. A client certificate is asked for where its CA is known, and then checked if one is sent.

    Raises ConfigInvalid naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for flag, file in (
        ("--tls-cert", settings.tls_cert),
        ("--tls-key", settings.tls_key),
        ("--client-ca", settings.client_ca),
    ):
        _check_readable(flag, file)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except ssl.SSLError as error:
        raise ConfigInvalid(
            f"--tls-cert {settings.tls_cert}, --tls-key {settings.tls_key}: no certificate and key that belong together"
        ) from error
    if settings.client_ca:
        try:
            context.load_verify_locations(settings.client_ca)
        except ssl.SSLError as error:
            raise ConfigInvalid(f"--client-ca {settings.client_ca}: no certificate in PEM form") from error
        # Optional at the handshake: workloads that unseal come to the same port with a token and no certificate.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _check_readable(flag: str, file: str) -> None:
    if not file:
        return
    try:
        Path(file).read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{flag} {file}: {error.strerror}") from error


class Port:
    """The listening socket, with the certificates that its files hold now. One that changes serves who comes next.

    Files that do not fit together are left alone, since the old certificate still serves; the log says so.

    asyncio's own server keeps its certificates for life, and to stop it loses whom it has just accepted (CPython 3.11:
    the connection stays open and is never answered). So connections are accepted here.
    """

    def __init__(self, server: web.Server, listener: socket.socket, settings: WebhookSettings) -> None:
        """Raises ConfigInvalid."""
        self._server = server
        self._listener = listener
        self._settings = settings
        self._taken = self._content()
        self._context = server_context(settings)
        self._greeted: set[asyncio.Task[None]] = set()
        listener.setblocking(False)

    async def run(self) -> None:
        """Accepts, and takes the files' new content as it comes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._accept())
            tasks.create_task(self._follow())

    async def close(self) -> None:
        """After `run`: nobody can connect any more; who is about to may finish."""
        self._listener.close()
        await asyncio.gather(*self._greeted)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except ConnectionError:
                continue
            except OSError as error:
                log.error("cannot accept connections: %s", error.strerror)
                await asyncio.sleep(_FULL)
                continue
            greeting = asyncio.create_task(self._greet(connection))
            self._greeted.add(greeting)
            greeting.add_done_callback(self._greeted.discard)

    async def _greet(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # A port scan, a probe without TLS, a certificate that we do not trust: nothing to say about.
        with contextlib.suppress(OSError):
            await loop.connect_accepted_socket(
                self._server, connection, ssl=self._context, ssl_handshake_timeout=_HANDSHAKE
            )

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_POLL)
            found = self._content()
            if found == self._taken:
                continue
            try:
                self._context = server_context(self._settings)
            except ConfigInvalid as error:
                log.error("%s; the old certificate serves on", error)
            else:
                log.info("new certificates are taken")
            # Where they changed once more while they were loaded, the next look tells.
            self._taken = found

    def _content(self) -> tuple[bytes, ...]:
        files = (self._settings.tls_cert, self._settings.tls_key, self._settings.client_ca)
        return tuple(map(_read, files))


def expiry(settings: WebhookSettings) -> float:
    """When the serving certificate ends, in Unix time; 0 where it cannot be read now."""
    try:
        return x509.load_pem_x509_certificate(_read(settings.tls_cert)).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def check_expiry(settings: WebhookSettings) -> None:
    """Raises NotReady where the serving certificate has ended: no API server would talk to this process."""
    if expiry(settings) <= time.time():
        raise NotReady("the serving certificate has ended, or cannot be read: waiting for a new one")


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes() if file else b""
    except OSError:
        return b""


def check_client(request: web.Request, settings: WebhookSettings) -> None:
    """Raises Refused unless an admission call shows the API server's certificate, where one is asked for."""
    if not settings.client_ca:
        return
    certificate = request.get_extra_info("peercert")
    if not certificate:
        raise Refused("admission needs the API server's client certificate")
    names = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
    if settings.client_name and settings.client_name not in names:
        raise Refused("the client certificate is not the API server's")
