"""Which token the keys of this cluster are in: a ConfigMap that outlives the release, and holds keyshred to it.

Without it, a mode or a token URI that was changed by accident would begin a new set of keys beside the old one.
"""

import logging
from dataclasses import replace

from keyshred.config import ControllerSettings
from keyshred.errors import Conflict, NotFound, TokenMismatch
from keyshred.hsm import uri
from keyshred.hsm.interface import TokenStatus
from keyshred.kube.client import Json, Kube, path
from keyshred.names import LABEL_MANAGED_BY, MANAGED_BY

log = logging.getLogger(__name__)


class TokenRecord:
    """The ConfigMap that `--token-record` names."""

    def __init__(self, kube: Kube, settings: ControllerSettings) -> None:
        self._kube = kube
        self._settings = settings
        self._known = ""
        """Serial number that is recorded."""

    async def hold(self) -> ControllerSettings:
        """The settings with a token URI that the recorded token alone matches, if one is recorded.

        Raises TokenMismatch where the URI names another serial.
        """
        settings = self._settings
        if not settings.token_record:
            return settings
        try:
            data = (await self._kube.get(self._path()))["data"]
        except NotFound:
            return settings
        self._known = data["serial"]
        named = uri.parse(settings.token_uri).serial
        if named is None:
            return replace(settings, token_uri=uri.with_serial(settings.token_uri, self._known))
        if named != self._known:
            raise TokenMismatch(
                f"the token URI names the serial {named}, and the keys of this cluster are in the token "
                f"{data['label']} with {self._known}: use that one. If you give up its keys, and what is sealed "
                f"under them, delete the ConfigMap {settings.namespace}/{settings.token_record} (docs/install.md, "
                "'Another token')"
            )
        return settings

    async def remember(self, token: TokenStatus) -> None:
        """Before the first key is made in a token, or taken over.

        Raises TokenMismatch where another one is recorded.
        """
        if not self._settings.token_record or self._known == token.serial:
            return
        data = {"label": token.label, "serial": token.serial, "model": token.model, "mode": self._settings.mode}
        await create(self._kube, self._settings.namespace, self._settings.token_record, data)
        self._known = token.serial

    def _path(self) -> str:
        return path("configmaps", self._settings.token_record, namespace=self._settings.namespace)


async def create(kube: Kube, namespace: str, name: str, data: dict[str, str]) -> None:
    """Records the token. Raises TokenMismatch where another one is recorded already."""
    body: Json = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {LABEL_MANAGED_BY: MANAGED_BY}},
        "data": data,
    }
    try:
        await kube.create(path("configmaps", namespace=namespace), body)
        log.info("the keys of this cluster are in the token %s (serial %s) from now on", data["label"], data["serial"])
    except Conflict:
        there = (await kube.get(path("configmaps", name, namespace=namespace)))["data"]["serial"]
        if there != data["serial"]:
            raise TokenMismatch(
                f"the keys of this cluster are in the token with the serial {there}, and this one has "
                f"{data['serial']}: no key is made in it (docs/install.md, 'Another token')"
            ) from None
