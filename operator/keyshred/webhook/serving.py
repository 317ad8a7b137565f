"""The serving certificate from a Secret, without a kubelet in between, which would take a minute and a half."""

import asyncio
import base64
import logging
import os
import ssl
from pathlib import Path
from typing import Final

from keyshred.errors import KeyshredError, NotFound
from keyshred.kube.client import Json, Kube, path

log = logging.getLogger(__name__)

_WAIT: Final = 0.5
"""Seconds between looks while there is nothing to serve with."""
_LOOK: Final = 3.0
"""Seconds between looks later."""


class ServingSecret:
    """A TLS Secret in keyshred's namespace, and the file that the workers load."""

    def __init__(self, kube: Kube, namespace: str, name: str, folder: Path) -> None:
        self._kube = kube
        self._url = path("secrets", name, namespace=namespace)
        self._name = f"{namespace}/{name}"
        self.file = folder / "serving.pem"
        """Certificate and key in one, so that a worker never loads one without the other."""
        self._taken = b""
        self._told = ""

    async def wait(self) -> None:
        """Returns when the file holds a certificate and its key."""
        while not await self._look():
            await asyncio.sleep(_WAIT)

    async def follow(self) -> None:
        """Keeps the file as the Secret is, until cancelled. One that is gone or broken changes nothing."""
        while True:
            await asyncio.sleep(_LOOK)
            await self._look()

    async def _look(self) -> bool:
        try:
            secret = await self._kube.get(self._url)
        except NotFound:
            self._tell(f"Secret {self._name} is not there: waiting for the controller or cert-manager to make it")
            return False
        except KeyshredError as error:
            self._tell(f"Secret {self._name}: {error}")
            return False
        content = _content(secret)
        if content == self._taken:
            return True
        new = self.file.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(content)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(new)
        except ssl.SSLError:
            self._tell(f"Secret {self._name}: no certificate and key that belong together; what was there is served on")
            return False
        new.rename(self.file)
        self._taken, self._told = content, ""
        return True

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            log.log(logging.WARNING if self._taken else logging.INFO, "%s", text)


def _content(secret: Json) -> bytes:
    data = secret.get("data") or {}
    return b"\n".join(base64.b64decode(data.get(key) or "") for key in ("tls.crt", "tls.key"))
