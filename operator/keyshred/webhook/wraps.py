"""Counts wraps under each key version, in blocks that the KeyRecord gives out (policy.wraps)."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from keyshred.errors import ConfigInvalid, Conflict, KeyshredError, KubeUnavailable, NotFound, PolicyNotFresh
from keyshred.hsm.interface import KeyRef
from keyshred.kube.client import Kube, own_path
from keyshred.names import KEY_RECORDS
from keyshred.policy import wraps

log = logging.getLogger(__name__)

_WITHIN: Final = 3.0
"""Seconds for one reservation; the API server waits 10 s for the whole admission."""
_ATTEMPTS: Final = 20
"""Each that fails is another worker's or the controller's success."""


@dataclass(slots=True)
class _Account:
    left: int = 0
    reserved: int = 0
    """All blocks of this version up to our last one, ours and the others'."""
    reserving: "asyncio.Task[None] | None" = None


class Wraps:
    """One worker's reserves. The next block is fetched when half of one is left, so a seal seldom waits for it."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._accounts: dict[KeyRef, _Account] = {}

    async def take(self, ref: KeyRef, root_key: str) -> None:
        """Counts one wrap before it is made, dry runs too.

        Raises what `policy.wraps.reserve` and `Kube` raise: what cannot be counted is not sealed.
        """
        account = self._accounts.setdefault(ref, _Account())
        while account.left == 0:
            await asyncio.shield(self._reserve(account, ref, root_key))
        account.left -= 1
        # Once for each block: where it fails, the last seal of the block waits for it.
        if account.left == wraps.BLOCK // 2:
            self._reserve(account, ref, root_key)

    def rotation_due(self, ref: KeyRef) -> bool:
        """Whether so many wraps are reserved that the version is to be replaced."""
        account = self._accounts.get(ref)
        return account is not None and account.reserved >= wraps.ROTATION_DUE

    def _reserve(self, account: _Account, ref: KeyRef, root_key: str) -> "asyncio.Task[None]":
        """The reservation that is under way, for all who wait."""
        if account.reserving is None:
            account.reserving = asyncio.create_task(self._add_block(account, ref, root_key))
            account.reserving.add_done_callback(lambda task: _done(account, task, ref))
        return account.reserving

    async def _add_block(self, account: _Account, ref: KeyRef, root_key: str) -> None:
        try:
            async with asyncio.timeout(_WITHIN):
                account.reserved = await self._write(ref, root_key)
        except TimeoutError:
            raise KubeUnavailable("the API server did not let keyshred count this seal in time: try again") from None
        account.left += wraps.BLOCK

    async def _write(self, ref: KeyRef, root_key: str) -> int:
        url = own_path(KEY_RECORDS, str(ref.key_id))
        for _ in range(_ATTEMPTS):
            try:
                record = await self._kube.get(url)
            except NotFound:
                raise PolicyNotFresh(
                    f"RootKey {root_key} has no KeyRecord, so no seal can be counted: try again"
                ) from None
            status, reserved = wraps.reserve(record.get("status") or {}, ref, root_key)
            try:
                written = await self._kube.replace(f"{url}/status", record | {"status": status})
            except Conflict:
                continue
            if wraps.reserved(written.get("status") or {}, ref) != reserved:
                # An older CRD drops fields that it does not know.
                raise ConfigInvalid("the CRD keyrecords.keyshred.dev is older than keyshred: apply the newer one")
            return reserved
        raise KubeUnavailable(f"others keep writing the KeyRecord of RootKey {root_key}: try again")


def _done(account: _Account, task: "asyncio.Task[None]", ref: KeyRef) -> None:
    account.reserving = None
    if not task.cancelled() and isinstance(error := task.exception(), KeyshredError):
        log.warning("no more wraps reserved for version %s of %s: %s", ref.version, ref.key_id, error)
