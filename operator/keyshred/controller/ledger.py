"""The ledger and what the token guards of it: each transition's head, and this cluster's claim on the key.

The record is written first, then the head: a crash in between leaves the head behind, which is as it should be.
"""

import logging
from collections.abc import Mapping
from typing import Any, Unpack
from uuid import UUID

from keyshred.controller.faults import faultpoint
from keyshred.controller.parts import Parts, key_id_of
from keyshred.errors import KeyClaimed, KeyshredError, NotSupported, TokenBroken
from keyshred.hsm.interface import Survey, TokenStatus
from keyshred.kube.client import Json, path
from keyshred.policy import ledger
from keyshred.policy.heads import Head

log = logging.getLogger(__name__)


class Ledger:
    """KeyRecords as the controller writes them, and the token's data objects about them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cluster_uid = ""

    async def cluster_uid(self) -> str:
        """UID of the namespace kube-system, which stands for the cluster."""
        if not self._cluster_uid:
            self._cluster_uid = (await self._parts.kube.get(path("namespaces", "kube-system")))["metadata"]["uid"]
        return self._cluster_uid

    async def write(
        self, record: Json, *, changes: Mapping[str, Any] | None = None, **entry: Unpack[ledger.Entry]
    ) -> Json:
        """See Records.write. What kept the key from going on is over; the head follows where the token lets it."""
        record = await self._parts.records.write(record, changes={"conditions": None} | dict(changes or {}), **entry)
        faultpoint(f"unheaded-{entry['action']}")
        try:
            await self._follow(record)
        except NotSupported:
            pass
        except KeyshredError as error:
            # It is written already. The next transition or the next look at the key brings the head after it.
            log.warning("key %s: the ledger's head is not on the token yet: %s", record["metadata"]["name"], error)
        return record

    async def check(self, record: Json, token: TokenStatus) -> None:
        """Returns if the token's head does not speak against the KeyRecord. Raises LedgerBroken, LedgerBehindToken."""
        ledger.check_chain(record["status"]["transitions"])
        if not token.data_objects:
            if _kept_data_objects(record):
                raise TokenBroken(
                    f"the token {token.label} kept data objects for this key before, and does not now: claims of other "
                    "clusters and the ledger's head cannot be seen, so nothing is made or destroyed until it does again"
                )
            return
        head = await self._head(record)
        if head is not None and head.cluster == await self.cluster_uid():
            head.check(record["metadata"]["name"], record["status"])

    async def hold(self, record: Json, token: TokenStatus) -> None:
        """This cluster's claim on the key, and its ledger's head: made where they are not there."""
        if not token.data_objects:
            return
        key_id, own = key_id_of(record), await self.cluster_uid()
        if own not in await self._parts.hsm.claims(key_id):
            await self._parts.records.prove(record)
            self._parts.lease.check()
            await self._parts.hsm.set_claim(key_id, own, True)
            faultpoint("claimed")
        if await self._head(record) != Head.of(record["status"], own):
            await self._parts.records.prove(record)
            await self._follow(record)

    async def is_held(self, record: Json, token: TokenStatus, survey: Survey) -> bool:
        """Whether `check` and `hold` would find nothing to say and nothing to do, by what the token holds."""
        if not token.data_objects:
            return not _kept_data_objects(record)
        key_id, own = key_id_of(record), await self.cluster_uid()
        head = Head.of(record["status"], own).encode()
        return own in survey.claims.get(key_id, ()) and survey.heads.get(key_id) == head

    async def check_claims(self, key_id: UUID, token: TokenStatus) -> None:
        """Raises KeyClaimed while another cluster claims the key."""
        if not token.data_objects:
            return
        if others := sorted(await self._parts.hsm.claims(key_id) - {await self.cluster_uid()}):
            raise KeyClaimed(
                f"other clusters claim this key (UIDs of their namespaces kube-system: {', '.join(others)}): it is not "
                "destroyed until they let go. Delete the RootKey with this key ID there; or, if that cluster is no "
                f"more, remove the data object keyshred-claim:{key_id}:UID with the token's own tools"
            )

    async def give_up_claim(self, record: Json, token: TokenStatus) -> None:
        """Removes this cluster's claim: once the destruction has begun, nobody here can want the key any more.

        Not after the destruction, as two clusters that both want it would wait for each other for ever.
        """
        key_id, own = key_id_of(record), await self.cluster_uid()
        if token.data_objects and own in await self._parts.hsm.claims(key_id):
            await self._parts.records.prove(record)
            self._parts.lease.check()
            await self._parts.hsm.set_claim(key_id, own, False)
            faultpoint("claim-given-up")

    async def _head(self, record: Json) -> Head | None:
        text = await self._parts.hsm.head(key_id_of(record))
        return None if text is None else Head.parse(text)

    async def _follow(self, record: Json) -> None:
        own, hsm = await self.cluster_uid(), self._parts.hsm
        head = await self._head(record)
        if head is not None:
            if head.cluster == own:
                # Never over one that speaks against the record: then it would be this that forgot.
                head.check(record["metadata"]["name"], record["status"])
            elif head.cluster in await hsm.claims(key_id_of(record)):
                return  # It guards that cluster's ledger while that one uses the key.
        self._parts.lease.check()
        await hsm.set_head(key_id_of(record), Head.of(record["status"], own).encode())


def _kept_data_objects(record: Json) -> bool:
    return bool((record["status"].get("token") or {}).get("dataObjects"))
