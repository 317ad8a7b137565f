"""Keys that outlive their RootKey, since nobody whom admission asked wanted them gone."""

import logging
from datetime import datetime
from typing import Final
from uuid import UUID

from keyshred.controller.faults import faultpoint
from keyshred.controller.ledger import Ledger
from keyshred.controller.parts import BY, Parts
from keyshred.errors import NotFound, Refused
from keyshred.kube.client import METADATA_LIST, Json, path
from keyshred.names import GROUP, ROOT_KEYS, Reason
from keyshred.policy.ledger import Action

log = logging.getLogger(__name__)

KEPT: Final = (
    "the RootKey object was removed without an admitted delete: the key material is kept; "
    "a RootKey with origin Adopted and this key ID takes it back"
)
NOT_TAKEN: Final = (
    "the RootKey was deleted before it had taken over the key with this key ID: the key material, if there is any, is "
    "kept; a RootKey with origin Adopted and this key ID takes it over"
)


class Keeping:
    """Writes down that a key is kept."""

    def __init__(self, parts: Parts, ledger: Ledger) -> None:
        self._parts = parts
        self._ledger = ledger

    async def keep(self, obj: Json, record: Json, why: str) -> None:
        """The key of a RootKey that is about to go."""
        uid, status = obj["metadata"]["uid"], record["status"]
        if status.get("rootKeyUID") in ("", None, uid):
            ours = [t for t in status["transitions"] if t.get("rootKeyUID") == uid]
            if not ours or ours[-1]["action"] != Action.KEPT:
                await self._write(record, uid, why)
                faultpoint("after-Kept")
        await self._parts.events.post(obj, Reason.KEY_KEPT, why, warning=True)

    async def keep_unrecorded(self, obj: Json, key_id: UUID) -> None:
        """The key, if there is one, of a RootKey without a KeyRecord."""
        try:
            record = await self._parts.records.ensure(key_id, obj["metadata"]["name"], by=BY)
        except (NotFound, Refused) as error:
            # The KeyRecords' CRD is going too. To wait for it would hang the RootKeys' for ever, and keeping is safe.
            log.warning("RootKey %s: its key is kept, but that cannot be recorded: %s", obj["metadata"]["name"], error)
            await self._parts.events.post(obj, Reason.KEY_KEPT, KEPT, warning=True)
            return
        had_one = bool((obj.get("status") or {}).get("versions"))
        await self.keep(obj, record, f"{KEPT}; the key's earlier KeyRecord is gone" if had_one else KEPT)

    async def orphaned(self, record: Json) -> None:
        """The RootKey that held this key is gone without its finalizer having been asked."""
        await self._write(record, record["status"]["rootKeyUID"], KEPT)
        await self._parts.events.post(record, Reason.KEY_KEPT, KEPT, warning=True)

    async def goes_with_its_crd(self, obj: Json) -> bool:
        """Whether this RootKey may have been deleted by the deletion of its CRD, past admission.

        The API server marks the CRD first, deletes its objects after, and cannot finish while one has our finalizer.
        So a RootKey that was deleted before its CRD was deleted by somebody, and this one cannot be told apart.
        """
        crds = path("customresourcedefinitions", group="apiextensions.k8s.io", version="v1")
        named = f"metadata.name={ROOT_KEYS}.{GROUP}"
        async for crd in self._parts.kube.list_all(crds, accept=METADATA_LIST, fields=named):
            if going_since := crd["metadata"].get("deletionTimestamp"):
                deleted_at = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
                return deleted_at >= datetime.fromisoformat(going_since)
        return False

    async def _write(self, record: Json, uid: str, why: str) -> None:
        changes = {"message": why, "rootKeyUID": ""}
        await self._ledger.write(record, action=Action.KEPT, by=BY, root_key_uid=uid, detail=why, changes=changes)
