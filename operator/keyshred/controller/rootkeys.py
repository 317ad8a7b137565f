"""RootKeys: from creation to the day they are deleted."""

from datetime import timedelta
from uuid import UUID

from keyshred.controller import status as statuses
from keyshred.controller.destruction import Destruction
from keyshred.controller.keeping import Keeping
from keyshred.controller.ledger import Ledger
from keyshred.controller.material import Materials
from keyshred.controller.parts import BY, COUNT_SOON, Job, Kind, Parts, key_id_of, root_key_by_uid
from keyshred.errors import (
    Conflict,
    Deny,
    KeyMissing,
    KeyshredError,
    KubeUnavailable,
    LedgerBehindToken,
    LedgerBroken,
    NotFound,
    Retry,
    Stop,
    TokenMismatch,
)
from keyshred.kube.client import Json, own_path
from keyshred.names import ROOT_KEYS, KeyState, Reason
from keyshred.policy import destruction, guards, ledger, lifecycle
from keyshred.policy.conditions import Condition, Status, reason_of
from keyshred.policy.ledger import Action
from keyshred.policy.lifecycle import Material
from keyshred.policy.resources import RootKey
from keyshred.times import utc_now


class RootKeys:
    """Reconciles RootKeys."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ledger = Ledger(parts)
        self.materials = Materials(parts, self._ledger)
        self.keeping = Keeping(parts, self._ledger)
        self.destruction = Destruction(parts, self._ledger, self.materials, self.keeping)
        self._seen: dict[str, tuple[str, object]] = {}
        """By name: UID, and what KeyAuthorizations look at."""

    async def reconcile(self, name: str) -> None:
        """Brings one RootKey to where spec, token and clock want it."""
        try:
            obj = await self._parts.kube.get(own_path(ROOT_KEYS, name))
        except NotFound:
            self._gone(name)
            return
        key = RootKey.parse(obj)
        if key.deleting:
            self._changed(name, key.uid, KeyState.PENDING_DESTRUCTION)
            await self.destruction.root_key_deleted(obj, key)
            return
        try:
            await self._exists(obj, key)
        except Conflict:
            raise
        except (Stop, Deny) as error:
            # Where the token remembers that the key's end was decided, an old KeyRecord must not undo that.
            decided = isinstance(error, LedgerBehindToken) and error.decided
            state = KeyState.PENDING_DESTRUCTION if decided else key.recorded
            await self._refuse(obj, state, reason_of(error), str(error))
            raise

    async def _exists(self, obj: Json, key: RootKey) -> None:
        if key.key_id is None:
            await self._refuse(
                obj,
                KeyState.PRE_ACTIVATION,
                Reason.PENDING,
                "spec.keyID is missing, so keyshred's admission webhook did not see this RootKey: no key is made. "
                "Delete it and create it again once the webhook runs",
            )
            return
        record = await self._parts.records.get(key.key_id)
        if lifecycle.is_lost(key, record and record["status"]):
            raise LedgerBroken(
                f"the KeyRecord {key.key_id} of this key is gone, or was begun anew: restore it from a backup; "
                "nothing is done with the key until then"
            )
        if not (record and record.get("status")):
            record = await self._parts.records.ensure(key.key_id, key.name, by=BY)
        ledger.check_chain(record["status"]["transitions"])
        if refusal := await self._refusal(obj, key, record["status"]):
            await self._refuse(obj, KeyState.PRE_ACTIVATION, *refusal)
            if record["status"]["state"] == KeyState.PENDING_DESTRUCTION:
                # The destruction waits for no RootKey, and the resync leaves it to this one.
                self._parts.enqueue(Job(Kind.RECORD, str(key.key_id)), 0)
            return
        await self._live(obj, key, key.key_id, record)

    async def _live(self, obj: Json, key: RootKey, key_id: UUID, record: Json) -> None:
        problem: KeyshredError | None = None
        try:
            record, material = await self.materials.ensure(obj, record)
        except (Conflict, KubeUnavailable, LedgerBroken, LedgerBehindToken):
            raise
        except KeyshredError as error:
            problem = error
            known = Status.FALSE if isinstance(error, KeyMissing | TokenMismatch) else Status.UNKNOWN
            material = Material(known, reason_of(error), str(error))
        now = utc_now()
        record = await self._observe_guards(obj, key, record)
        before = KeyState(record["status"]["state"])
        state = lifecycle.intended_state(key, record["status"], now)
        if state is not before:
            record = await self._ledger.write(
                record,
                action=lifecycle.transition(before, state),
                by=BY,
                root_key_uid=key.uid,
                detail=f"from {before} to {state}",
                changes={"state": state.value},
            )
        await self._show(obj, key_id, record, state, lifecycle.conditions(state, material))
        self._changed(key.name, key.uid, (key_id, state, material.present))
        if (moment := lifecycle.next_moment(key, now)) is not None:
            self._parts.enqueue(Job(Kind.ROOT_KEY, key.name), (moment - now).total_seconds())
        if isinstance(problem, Retry):
            raise problem

    async def _observe_guards(self, obj: Json, key: RootKey, record: Json) -> Json:
        counted = self._parts.dependents.get(key_id_of(record))
        recorded, secrets = record["status"].get("guards"), counted.secrets if counted else None
        observed = guards.observe(recorded, guards.asked(obj["spec"]), secrets, utc_now())
        if not guards.changed(recorded, observed):
            return record
        return await self._ledger.write(
            record,
            action=Action.GUARDS_CHANGED,
            by=BY,
            root_key_uid=key.uid,
            detail=guards.describe(observed),
            # A merge would keep what is left out.
            changes={"guards": dict.fromkeys(recorded or (), None) | observed},
        )

    async def _refusal(self, obj: Json, key: RootKey, status: Json) -> tuple[Reason, str] | None:
        """Why this RootKey does not get the key that its key ID names; None: it does."""
        if status["state"] == KeyState.DESTROYED:
            return (
                Reason.KEY_ID_DESTROYED,
                "the key with this key ID is destroyed, and a key ID is never used again: delete this RootKey",
            )
        if destruction.has_begun(status):
            return (
                Reason.DESTRUCTION_STARTED,
                "the destruction of the key with this key ID has begun, so it cannot be restored: delete this RootKey",
            )
        holder = status.get("rootKeyUID")
        if holder == key.uid:
            return None
        if holder and (other := await root_key_by_uid(self._parts.kube, holder)) is not None:
            named = other["metadata"]["name"]
            return Reason.KEY_ID_IN_USE, f"the RootKey {named} holds the key with this key ID: delete this one"
        if obj["spec"].get("origin") != "Adopted" and lifecycle.has_material(status):
            return (
                Reason.KEY_ID_IN_USE,
                "an earlier RootKey made the key with this key ID: delete this one, and create a RootKey with origin "
                "Adopted and this key ID",
            )
        return None

    async def _refuse(self, obj: Json, state: KeyState, reason: Reason, message: str) -> None:
        shown = (obj.get("status") or {}) | {"state": state.value}
        await statuses.write(self._parts, ROOT_KEYS, obj, shown, [lifecycle.not_ready(reason, message)])
        self._changed(obj["metadata"]["name"], obj["metadata"]["uid"], state)

    async def _show(
        self, obj: Json, key_id: UUID, record: Json, state: KeyState, conditions: tuple[Condition, ...]
    ) -> None:
        fresh = timedelta(seconds=self._parts.settings.resync)
        status = lifecycle.status(obj, record["status"], state, self._parts.dependents.get(key_id), fresh=fresh)
        await statuses.write(self._parts, ROOT_KEYS, obj, status, conditions)

    def _changed(self, name: str, uid: str, what: object) -> None:
        """KeyAuthorizations show what their RootKey is; they are looked at again only where that changed."""
        if self._seen.get(name) != (uid, what):
            self._seen[name] = (uid, what)
            self._parts.enqueue(Job(Kind.NAMESPACES), 0)
            self._parts.enqueue(Job(Kind.COUNT), COUNT_SOON)

    def _gone(self, name: str) -> None:
        uid, _ = self._seen.pop(name, ("", None))
        self.materials.forget(uid)
        self._parts.enqueue(Job(Kind.COUNT), COUNT_SOON)
