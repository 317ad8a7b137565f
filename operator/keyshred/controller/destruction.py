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
from keyshred.controller.keeping import KEPT, NOT_TAKEN, Keeping
from keyshred.controller.ledger import Ledger
from keyshred.controller.material import Materials
from keyshred.controller.parts import BY, Job, Kind, Parts, key_id_of, root_key_by_uid
from keyshred.controller.residual import Residuals
from keyshred.envelope.format import Mechanism
from keyshred.errors import Conflict, KeyAmbiguous, KeyshredError, LedgerBroken, NotFound, TokenBroken
from keyshred.hsm.interface import KeyRef, TokenStatus
from keyshred.kube.client import Json, Kube, own_path, path
from keyshred.names import FINALIZER, ROOT_KEYS, KeyState, Reason
from keyshred.names import Condition as ConditionType
from keyshred.policy import conditions, guards, ledger, lifecycle
from keyshred.policy import destruction as policy
from keyshred.policy.conditions import Condition, Status, reason_of
from keyshred.policy.destruction import Step
from keyshred.policy.ledger import Action
from keyshred.policy.lifecycle import Dependents
from keyshred.policy.resources import RootKey
from keyshred.times import utc_now

log = logging.getLogger(__name__)

_COUNT_SECONDS: Final = 5.0
"""What a last count of the dependents may delay a destruction by."""


class Destruction:
    """Ends keys. The KeyRecord decides what is next; the RootKey only starts it, and waits unless there is grace."""

    def __init__(self, parts: Parts, ledger: Ledger, materials: Materials, keeping: Keeping) -> None:
        self._parts = parts
        self._ledger = ledger
        self._materials = materials
        self._keeping = keeping
        self._residuals = Residuals(parts, ledger)

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
        lost = lifecycle.is_lost(key, record and record["status"])
        if record is None or lost or policy.next_step(record["status"]) is Step.START:
            if await self._keeping.goes_with_its_crd(obj):
                await (self._keeping.keep(obj, record, KEPT) if record else self._keeping.keep_unrecorded(obj, key_id))
                return
            if lost:
                raise LedgerBroken(
                    f"the KeyRecord {key_id} of this key is gone, or was begun anew, so what became of the key is not "
                    "known: restore the KeyRecord from a backup; to keep the key, remove the RootKey's finalizer"
                )
        if record is None:
            await self._keeping.keep_unrecorded(obj, key_id)
            return
        status = record["status"]
        ledger.check_chain(status["transitions"])
        if policy.next_step(status) is Step.START:
            deleted_at = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
            admitted = ledger.admitted_delete(status, key.uid, deleted_at)
            if admitted is None:
                await self._keeping.keep(obj, record, KEPT)
                return
            if not await self._is_its_to_end(obj, status):
                await self._keeping.keep(obj, record, NOT_TAKEN)
                return
            record = await self._begin(obj, record, admitted)
        if policy.next_step(record["status"]) is Step.WAIT:
            await self._parts.events.post(obj, Reason.DESTRUCTION_SCHEDULED, record["status"]["message"])
            return
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

    # --- from the wish to the beginning ---------------------------------------------------------------------------

    async def _begin(self, obj: Json, record: Json, admitted: Mapping[str, Any]) -> Json:
        """DestructionScheduled or DestructionStarted: what the guards say. Raises KeyProtected."""
        key_id, status, name = key_id_of(record), record["status"], obj["metadata"]["name"]
        deleted_at = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
        # As of the deletion: a spec can be changed after it too.
        guarded = guards.observe(status.get("guards"), guards.asked(obj["spec"]), None, deleted_at)
        if guarded["protected"]:
            # Admission went by the last count; what was sealed since then is seen here.
            guards.check_count(name, (await dependents.count_key(self._parts.kube, key_id)).secrets)
        await self._check_ledger(record)
        wish = policy.request(obj, admitted, guards.grace_period(guarded, deleted_at))
        if "dueAt" not in wish:
            return await self._start(record, wish)
        faultpoint("before-Schedule")
        record = await self._ledger.write(
            record,
            action=Action.DESTRUCTION_SCHEDULED,
            by=BY,
            root_key_uid=obj["metadata"]["uid"],
            detail=f"asked for by {wish['requestedBy']}; due at {wish['dueAt']}",
            changes=policy.scheduled(wish),
        )
        faultpoint("after-Schedule")
        self._parts.enqueue(
            Job(Kind.RECORD, str(key_id)), (policy.due_at(record["status"]) - utc_now()).total_seconds()
        )
        return record

    async def _check_ledger(self, record: Json) -> TokenStatus:
        token = await self._parts.hsm.status()
        policy.check_token(record["status"], token)
        await self._ledger.check(record, token)
        return token

    async def _start(self, record: Json, wish: Mapping[str, Any]) -> Json:
        faultpoint(f"before-{Step.START}")
        key_id = key_id_of(record)
        record = await self._ledger.write(
            record,
            action=Action.DESTRUCTION_STARTED,
            by=BY,
            root_key_uid=wish["rootKeyUID"],
            detail=f"asked for by {wish['requestedBy']}",
            changes=policy.started(
                record,
                wish,
                cluster_uid=await self._ledger.cluster_uid(),
                dependents=await self._last_count(key_id),
                hsm_backup_retention=self._parts.settings.hsm_backup_retention,
            ),
        )
        faultpoint(f"after-{Step.START}")
        return record

    async def _last_count(self, key_id: UUID) -> Dependents | None:
        try:
            async with asyncio.timeout(_COUNT_SECONDS):
                return await dependents.count_key(self._parts.kube, key_id, self._parts.index)
        except (KeyshredError, TimeoutError) as error:
            log.warning("key %s: dependents as of the last count: %s", key_id, error or type(error).__name__)
            return self._parts.dependents.get(key_id)

    async def _wait_step(self, record: Json) -> Json:
        """Begins a scheduled destruction that is due and that nobody takes back; else the record as it was."""
        key_id = key_id_of(record)
        if (ahead := await seconds_until(self._parts.kube, policy.due_at(record["status"]))) > 0:
            self._parts.enqueue(Job(Kind.RECORD, str(key_id)), ahead)
            return record
        if await self._is_wanted_back(key_id):
            return record  # its own RootKey's job restores it; the next resync looks again
        # While this fails, the key can still be restored.
        token = await self._check_ledger(record)
        await self._ledger.check_claims(key_id, token)
        return await self._start(record, record["status"]["destruction"])

    async def _is_wanted_back(self, key_id: UUID) -> bool:
        with contextlib.suppress(NotFound):
            async for obj in self._parts.kube.list_all(own_path(ROOT_KEYS)):
                spec, going = obj["spec"], obj["metadata"].get("deletionTimestamp")
                if spec.get("keyID") == str(key_id) and spec.get("origin") == "Adopted" and not going:
                    return True
        return False

    # --- step by step ---------------------------------------------------------------------------------------------

    async def advance(self, record: Json) -> Json:
        """Takes one step after the other until the key is Destroyed, or its time is not come; the record as it is then.

        What stops it stands in the KeyRecord too: there may be no RootKey any more.
        Raises Retry (HSM or API server away: goes on later), Conflict, and Stop where a person must look.
        """
        ledger.check_chain(record["status"]["transitions"])
        try:
            return await self._advance(record)
        except Conflict:
            raise
        except KeyshredError as error:
            with contextlib.suppress(KeyshredError):  # the first cause counts
                await self._stall(key_id_of(record), error)
            raise

    async def _advance(self, record: Json) -> Json:
        resumed = True
        while True:
            step = policy.next_step(record["status"])
            if step in (Step.START, Step.REPEAT_SEARCH, Step.COUNT_RESIDUAL, Step.DONE):
                return record
            faultpoint(f"before-{step}")
            if step is Step.WAIT:
                record = await self._wait_step(record)
                if policy.next_step(record["status"]) is Step.WAIT:
                    return record
            elif step is Step.CONTROL:
                record = await self._control_step(record)
                resumed = False
            elif step is Step.DESTROY:
                record = await self._destroy_step(record, resumed)
            else:
                record = await self._verify_step(record)
            faultpoint(f"after-{step}")

    async def _stall(self, key_id: UUID, error: KeyshredError) -> None:
        record = await self._parts.records.get(key_id)
        if record is None:
            return
        reason, message = reason_of(error), f"the destruction waits: {error}"
        old = record["status"].get("conditions") or ()
        if any((c["reason"], c["message"]) == (reason, message) for c in old):
            return
        stalled = Condition(ConditionType.STALLED, Status.TRUE, reason, message)
        generation = record["metadata"].get("generation", 0)
        await self._parts.records.note(
            record, {"conditions": conditions.merge(old, [stalled], generation=generation, now=utc_now())}
        )
        if reason not in (c["reason"] for c in old):
            await self._parts.events.post(record, reason, message, warning=True)

    async def _control(self, record: Json) -> tuple[TokenStatus, tuple[KeyRef, ...], bool]:
        """The positive control: the right token, and every object on it is the recorded key, and ours. Raises Stop."""
        # A session that stands since yesterday may see a token that is no more.
        await self._parts.hsm.reopen()
        token = await self._check_ledger(record)
        found = await self._parts.hsm.find(key_id_of(record))
        policy.check_found(record["status"], found)
        await self._materials.compare(record, found)
        opened = await self._materials.open_canaries(record, found)
        await self._ledger.give_up_claim(record, token)
        await self._ledger.check_claims(key_id_of(record), token)
        return token, found, opened

    async def _control_step(self, record: Json) -> Json:
        token, found, opened = await self._control(record)
        return await self._ledger.write(
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
        return await self._ledger.write(
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
                KeyRef(key_id, version["version"]),
                Mechanism(version["mechanism"]),
                base64.b64decode(version["canary"]),
            ):
                raise TokenBroken(
                    f"version {version['version']} of this key is gone, but another key on the token opens its canary: "
                    "there is a copy under another label; destroy it, and the destruction goes on by itself"
                )
        policy.check_token(record["status"], await hsm.status())
        now = utc_now()
        residual = await self._residuals.at_destruction(key_id)
        record = await self._ledger.write(
            record,
            action=Action.DESTROYED,
            by=BY,
            root_key_uid=_holder(record),
            detail="" if residual is None else str(residual),
            changes=policy.destroyed(record["status"], residual, now),
        )
        await self._parts.events.post(record, Reason.KEY_DESTROYED, record["status"]["message"])
        self._parts.enqueue(Job(Kind.RECORD, str(key_id)), self._parts.settings.repeat_search_after)
        return record

    async def follow_up(self, record: Json) -> None:
        """Of a Destroyed key: the second search, and the count of what pods still hold, each when it is time."""
        settings = self._parts.settings
        after = {
            Step.REPEAT_SEARCH: settings.repeat_search_after,
            Step.COUNT_RESIDUAL: settings.count_residual_after,
        }
        while (step := policy.next_step(record["status"])) in after:
            at = policy.moment_after(record["status"], after[step])
            if (ahead := (at - utc_now()).total_seconds()) > 0:
                self._parts.enqueue(Job(Kind.RECORD, record["metadata"]["name"]), ahead)
                return
            faultpoint(f"before-{step}")
            if step is Step.REPEAT_SEARCH:
                record = await self._repeat_search(record)
            else:
                record = await self._residuals.count_again(record)
            faultpoint(f"after-{step}")

    async def _repeat_search(self, record: Json) -> Json:
        token = await self._parts.hsm.status()
        policy.check_token(record["status"], token)
        try:
            found = len(await self._parts.hsm.find(key_id_of(record)))
        except KeyAmbiguous:
            found = 2  # at least: a version twice, or one that was never ours
        record = await self._ledger.write(
            record,
            action=Action.SEARCH_REPEATED,
            by=BY,
            detail=f"objects found: {found}",
            changes=policy.search_repeated(record["status"], found, utc_now()),
        )
        if found:
            await self._parts.events.post(record, Reason.KEY_FOUND_AGAIN, record["status"]["message"], warning=True)
        return record

    # --- the RootKey object ---------------------------------------------------------------------------------------

    async def _show(self, obj: Json, reason: Reason, message: str) -> None:
        shown = (obj.get("status") or {}) | {"state": KeyState.PENDING_DESTRUCTION.value}
        await statuses.write(self._parts, ROOT_KEYS, obj, shown, [lifecycle.not_ready(reason, message)])

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


async def seconds_until(kube: Kube, due: datetime) -> float:
    """How long it is to `due`, by our clock and by the API server's: one that runs ahead must destroy nothing."""
    if (ahead := (due - utc_now()).total_seconds()) > 0:
        return ahead
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answered = await kube.create(path("selfsubjectreviews", group="authentication.k8s.io", version="v1"), review)
    return (due - datetime.fromisoformat(answered["metadata"]["creationTimestamp"])).total_seconds()
