"""Carries out the destruction of keys, one written step after the other (design contract, section 6)."""

import asyncio
import base64
import contextlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from keyshred.controller import dependents
from keyshred.controller import status as statuses
from keyshred.controller.faults import faultpoint
from keyshred.controller.material import Materials
from keyshred.controller.parts import BY, Job, Kind, Parts, key_id_of, root_key_by_uid
from keyshred.envelope.context import wrap_aad
from keyshred.envelope.format import Mechanism
from keyshred.errors import Conflict, KeyshredError, NotFound, Refused, TokenBroken
from keyshred.hsm.interface import KeyRef, TokenStatus
from keyshred.kube.client import Json, own_path, path
from keyshred.names import FINALIZER, ROOT_KEYS, KeyState, Reason
from keyshred.policy import destruction as policy
from keyshred.policy import ledger, lifecycle
from keyshred.policy.conditions import reason_of
from keyshred.policy.destruction import Step
from keyshred.policy.ledger import Action
from keyshred.policy.resources import RootKey
from keyshred.times import utc_now

log = logging.getLogger(__name__)

_COUNT_SECONDS: Final = 5.0
"""What a last count of the dependents may delay a destruction by."""
_KEPT: Final = (
    "the RootKey object was removed without an admitted delete: the key material is kept; "
    "a RootKey with origin Adopted and this key ID takes it back"
)
_NOT_TAKEN: Final = (
    "the RootKey was deleted before it had taken over the key with this key ID: the key material, if there is any, is "
    "kept; a RootKey with origin Adopted and this key ID takes it over"
)


class Destruction:
    """Ends keys. The KeyRecord decides what is next; the RootKey only starts it and waits for it."""

    def __init__(self, parts: Parts, materials: Materials) -> None:
        self._parts = parts
        self._materials = materials

    async def root_key_deleted(self, obj: Json, key: RootKey) -> None:
        """A RootKey with a deletionTimestamp: destroys or keeps its key, then lets the object go."""
        if FINALIZER not in (obj["metadata"].get("finalizers") or ()):
            return
        if key.key_id is not None:
            try:
                await self._end(obj, key, key.key_id)
            except Conflict:
                raise
            except KeyshredError as error:
                # Where the API server itself is the cause, this fails too, and the first cause counts.
                with contextlib.suppress(KeyshredError):
                    await self._show(
                        obj, reason_of(error), f"the destruction waits, nothing more is done until then: {error}"
                    )
                raise
        await self._release(obj)

    async def _end(self, obj: Json, key: RootKey, key_id: UUID) -> None:
        record = await self._parts.records.get(key_id)
        if record is None:
            await self._keep_unrecorded(obj, key_id)
            return
        status = record["status"]
        ledger.check_chain(status["transitions"])
        if policy.next_step(status) is Step.START:
            deleted_at = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
            admitted = ledger.admitted_delete(status, key.uid, deleted_at)
            if admitted is None:
                await self._keep(obj, record, _KEPT)
                return
            if not await self._is_its_to_end(obj, status):
                await self._keep(obj, record, _NOT_TAKEN)
                return
            record = await self._start(obj, record, admitted)
        if key.recorded is not KeyState.PENDING_DESTRUCTION:
            await self._show(obj, Reason.DESTRUCTION_STARTED, "the destruction of the key is under way")
        record = await self.advance(record)
        await self._parts.events.post(obj, Reason.KEY_DESTROYED, record["status"]["message"])

    async def _is_its_to_end(self, obj: Json, status: Json) -> bool:
        """Whether the key is this RootKey's: it holds it, or nobody does and it was not to be taken over."""
        holder = status.get("rootKeyUID")
        if holder == obj["metadata"]["uid"]:
            return True
        if holder and await root_key_by_uid(self._parts.kube, holder) is not None:
            return False
        # Nobody's, and it has material: an earlier RootKey made it, and it was kept. Only one that took it over by
        # origin Adopted, and so holds it, may end it; this one may have come from a backup of that earlier one.
        return bool(obj["spec"].get("origin") != "Adopted") and not lifecycle.has_material(status)

    # --- the key is kept ------------------------------------------------------------------------------------------

    async def _keep(self, obj: Json, record: Json, why: str) -> None:
        uid, status = obj["metadata"]["uid"], record["status"]
        if status.get("rootKeyUID") in ("", None, uid):
            ours = [t for t in status["transitions"] if t.get("rootKeyUID") == uid]
            if not ours or ours[-1]["action"] != Action.KEPT:
                await self._write_kept(record, uid, why)
                faultpoint("after-Kept")
        await self._parts.events.post(obj, Reason.KEY_KEPT, why, warning=True)

    async def _keep_unrecorded(self, obj: Json, key_id: UUID) -> None:
        try:
            record = await self._parts.records.ensure(key_id, obj["metadata"]["name"], by=BY)
        except (NotFound, Refused) as error:
            # The KeyRecords' CRD is going too. To wait for it would hang the RootKeys' for ever, and keeping is safe.
            log.warning("RootKey %s: its key is kept, but that cannot be recorded: %s", obj["metadata"]["name"], error)
            await self._parts.events.post(obj, Reason.KEY_KEPT, _KEPT, warning=True)
            return
        await self._keep(obj, record, _KEPT)

    async def orphaned(self, record: Json) -> None:
        """The RootKey that held this key is gone without its finalizer having been asked: writes Kept."""
        await self._write_kept(record, record["status"]["rootKeyUID"], _KEPT)
        await self._parts.events.post(record, Reason.KEY_KEPT, _KEPT, warning=True)

    async def _write_kept(self, record: Json, uid: str, why: str) -> None:
        changes = {"message": why, "rootKeyUID": ""}
        await self._parts.records.write(
            record, action=Action.KEPT, by=BY, root_key_uid=uid, detail=why, changes=changes
        )

    # --- the key is destroyed -------------------------------------------------------------------------------------

    async def _start(self, obj: Json, record: Json, admitted: Mapping[str, Any]) -> Json:
        faultpoint(f"before-{Step.START}")
        key_id = key_id_of(record)
        cluster = await self._parts.kube.get(path("namespaces", "kube-system"))
        counted = self._parts.dependents.get(key_id)
        try:
            async with asyncio.timeout(_COUNT_SECONDS):
                counted = await dependents.count_key(self._parts.kube, key_id)
        except (KeyshredError, TimeoutError) as error:
            log.warning("key %s: dependents as of the last count: %s", key_id, error or type(error).__name__)
        record = await self._parts.records.write(
            record,
            action=Action.DESTRUCTION_STARTED,
            by=BY,
            root_key_uid=obj["metadata"]["uid"],
            detail=f"asked for by {admitted['by']}",
            changes=policy.started(
                obj,
                record,
                admitted,
                cluster_uid=cluster["metadata"]["uid"],
                dependents=counted,
                hsm_backup_retention=self._parts.settings.hsm_backup_retention,
            ),
        )
        faultpoint(f"after-{Step.START}")
        return record

    async def advance(self, record: Json) -> Json:
        """Takes one step after the other until the key is Destroyed; the record as it is then.

        Raises Retry (HSM or API server away: goes on later), Conflict, and Stop where a person must look.
        """
        ledger.check_chain(record["status"]["transitions"])
        resumed = True
        while True:
            step = policy.next_step(record["status"])
            if step in (Step.START, Step.REPEAT_SEARCH, Step.DONE):
                return record
            faultpoint(f"before-{step}")
            if step is Step.CONTROL:
                record = await self._control_step(record)
                resumed = False
            elif step is Step.DESTROY:
                record = await self._destroy_step(record, resumed)
            else:
                record = await self._verify_step(record)
            faultpoint(f"after-{step}")

    async def _control(self, record: Json) -> tuple[TokenStatus, tuple[KeyRef, ...], bool]:
        """The positive control: the right token, and every object on it is the recorded key. Raises Stop."""
        token = await self._parts.hsm.status()
        found = await self._parts.hsm.find(key_id_of(record))
        policy.check_found(record["status"], token, found)
        await self._materials.compare(record, found)
        opened = await self._materials.open_canaries(record, found)
        return token, found, opened

    async def _control_step(self, record: Json) -> Json:
        token, found, opened = await self._control(record)
        return await self._parts.records.write(
            record,
            action=Action.CONTROL_PASSED,
            by=BY,
            root_key_uid=_holder(record),
            detail=f"objects found: {len(found)}; serial number of the token: {token.serial}",
            changes=policy.control_passed(token, found, opened, utc_now()),
        )

    async def _destroy_step(self, record: Json, resumed: bool) -> Json:
        if resumed:
            # It may be another token by now, and another controller may have been here.
            await self._control(record)
            await self._parts.records.prove(record)
        self._parts.lease.check()
        count = await self._parts.hsm.destroy(key_id_of(record))
        faultpoint("destroyed-unrecorded")
        changes, detail = policy.objects_destroyed(count, resumed)
        return await self._parts.records.write(
            record, action=Action.OBJECTS_DESTROYED, by=BY, root_key_uid=_holder(record), detail=detail, changes=changes
        )

    async def _verify_step(self, record: Json) -> Json:
        hsm, key_id = self._parts.hsm, key_id_of(record)
        policy.check_token(record["status"], await hsm.status())
        if found := await hsm.find(key_id):
            raise TokenBroken(
                f"the token still lists {len(found)} objects of this key after their destruction: destroy them with "
                "the token's own tools; the destruction then goes on by itself"
            )
        for version in record["status"].get("versions") or ():
            if version.get("canary") and await hsm.opens_under_any_key(
                Mechanism(version["mechanism"]),
                base64.b64decode(version["canary"]),
                wrap_aad(key_id, version["version"]),
            ):
                raise TokenBroken(
                    f"version {version['version']} of this key is gone, but another key on the token opens its canary: "
                    "there is a copy under another label; destroy it, and the destruction goes on by itself"
                )
        policy.check_token(record["status"], await hsm.status())
        record = await self._parts.records.write(
            record,
            action=Action.DESTROYED,
            by=BY,
            root_key_uid=_holder(record),
            changes=policy.destroyed(record["status"], utc_now()),
        )
        await self._parts.events.post(record, Reason.KEY_DESTROYED, record["status"]["message"])
        self._parts.enqueue(Job(Kind.RECORD, str(key_id)), self._parts.settings.repeat_search_after)
        return record

    async def repeat_search(self, record: Json) -> None:
        """Searches once more, when it is time."""
        at = policy.repeat_search_at(record["status"], self._parts.settings.repeat_search_after)
        if (ahead := (at - utc_now()).total_seconds()) > 0:
            self._parts.enqueue(Job(Kind.RECORD, record["metadata"]["name"]), ahead)
            return
        token = await self._parts.hsm.status()
        policy.check_token(record["status"], token)
        found = await self._parts.hsm.find(key_id_of(record))
        record = await self._parts.records.write(
            record,
            action=Action.SEARCH_REPEATED,
            by=BY,
            detail=f"objects found: {len(found)}",
            changes=policy.search_repeated(record["status"], len(found), utc_now()),
        )
        if found:
            await self._parts.events.post(record, Reason.KEY_FOUND_AGAIN, record["status"]["message"], warning=True)

    # --- the RootKey object ---------------------------------------------------------------------------------------

    async def _show(self, obj: Json, reason: Reason, message: str) -> None:
        shown = (obj.get("status") or {}) | {"state": KeyState.PENDING_DESTRUCTION.value}
        await statuses.write(
            self._parts.kube, self._parts.events, ROOT_KEYS, obj, shown, [lifecycle.not_ready(reason, message)]
        )

    async def _release(self, obj: Json) -> None:
        faultpoint("before-Release")
        finalizers = [f for f in obj["metadata"]["finalizers"] if f != FINALIZER]
        with contextlib.suppress(NotFound):  # somebody else removed it
            # By UID: an object of the same name that came since is none of ours.
            await self._parts.kube.patch(
                own_path(ROOT_KEYS, obj["metadata"]["name"]),
                {"metadata": {"uid": obj["metadata"]["uid"], "finalizers": finalizers}},
            )
        log.info("RootKey %s is let go", obj["metadata"]["name"])


def _holder(record: Json) -> str:
    """UID of the RootKey whose key it is, perhaps a former one."""
    return str(record["status"].get("rootKeyUID") or "")
