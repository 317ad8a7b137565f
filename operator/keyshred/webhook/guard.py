"""Admission of keyshred's own resources: stamps that users cannot give, and the record of an admitted delete."""

import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from keyshred.errors import Malformed, NotFound, Refused
from keyshred.kube.client import Kube, own_path
from keyshred.kube.records import Records
from keyshred.names import FINALIZER, ROOT_KEYS, KeyState
from keyshred.policy import guards
from keyshred.policy.destruction import has_begun
from keyshred.times import utc_now
from keyshred.webhook.review import ALLOW, Answer, Json, Review
from keyshred.webhook.snapshot import Snapshot

GARBAGE_COLLECTORS: Final = frozenset(
    {
        "system:serviceaccount:kube-system:generic-garbage-collector",
        # Where the controller manager runs without --use-service-account-credentials, as it does by default.
        "system:kube-controller-manager",
    }
)


@dataclass(slots=True)
class Guard:
    """What the admission of RootKeys and KeyAuthorizations needs."""

    kube: Kube
    snapshot: Snapshot
    records: Records
    floors: guards.Floors = field(default_factory=guards.Floors)

    async def stamp_root_key(self, review: Review) -> Answer:
        """CREATE: draws the key ID and sets the finalizer. UPDATE: puts back what a replace dropped.

        Raises Refused for a key ID that is given without `origin: Adopted`, in use, or destroyed; for guards below
        the floors; and for guards that are weakened: KeyProtected, PolicyNotFresh.
        """
        obj = _object(review)
        spec, meta = _spec(obj), _metadata(obj)
        finalizers = list(meta.get("finalizers") or ())
        patch: list[Json] = []
        if review.operation == "CREATE":
            self.floors.check(str(meta.get("name") or meta.get("generateName") or ""), _guards_of(spec))
            given = spec.get("keyID")
            if given and spec.get("origin") != "Adopted":
                raise Refused(
                    "spec.keyID is drawn by keyshred; to take a key that exists, e.g. from a backup of this object, "
                    "give it with origin: Adopted"
                )
            if given:
                await self._check_free(_key_id(given))
            elif spec.get("origin") != "Adopted":  # without one, Adopted is for the schema to refuse
                patch.append(_add("/spec/keyID", str(uuid.uuid4())))
        else:
            await self._check_weakening(review.old_object or {}, spec)
            if not spec.get("keyID") and (old := _old_spec(review).get("keyID")):
                patch.append(_add("/spec/keyID", old))
        if FINALIZER not in finalizers and not meta.get("deletionTimestamp"):
            patch.append(_add("/metadata/finalizers", [*finalizers, FINALIZER]))
        if patch and obj.get("spec") is None:
            patch.insert(0, _add("/spec", {}))
        return Answer(patch)

    async def stamp_authorization(self, review: Review) -> Answer:
        """Ties a KeyAuthorization to the RootKey that has the name now: a re-created name grants nothing.

        Where there is no such RootKey yet, the controller stamps it when it comes. Raises Refused for the key ID of
        another key than the RootKey of that name.
        """
        ref = _field(_spec(_object(review)), "rootKeyRef")
        given, old = ref.get("keyID"), _field(_old_spec(review), "rootKeyRef").get("keyID")
        if old:
            return ALLOW if given else Answer([_add("/spec/rootKeyRef/keyID", old)])
        root_key = (await self.snapshot.policy()).root_keys.get(str(ref.get("name")))
        if root_key is None or root_key.key_id is None:
            return ALLOW
        if given and _key_id(given) != root_key.key_id:
            raise Refused(
                f"spec.rootKeyRef: the RootKey {root_key.name} holds the key {root_key.key_id} and not {given}: "
                "leave keyID out to authorise that key"
            )
        if given or root_key.deleting:
            return ALLOW
        return Answer([_add("/spec/rootKeyRef/keyID", str(root_key.key_id))])

    async def admit_delete(self, review: Review) -> Answer:
        """DELETE of a RootKey: records who asked, the one side effect of admission, and warns of what it will cost.

        Raises Refused for the garbage collector: nobody asked for that delete; and for guards below the floors.
        """
        obj = review.old_object
        if review.operation != "DELETE" or obj is None:
            return ALLOW
        if review.user in GARBAGE_COLLECTORS:
            raise Refused("a RootKey is destroyed only when somebody asks for it, never by garbage collection")
        meta, key_id = _metadata(obj), _spec(obj).get("keyID")
        name = str(meta.get("name"))
        if meta.get("deletionTimestamp") or not key_id:
            return ALLOW
        self.floors.check(name, _guards_of(_spec(obj)))
        dependents = _field(_field(obj, "status"), "dependents")
        record = await self.records.get(_key_id(key_id))
        recorded = ((record or {}).get("status") or {}).get("guards")
        # As good as when the controller looks next: what it has not noted yet of this spec counts already.
        guarded = guards.observe(recorded, _guards_of(_spec(obj)), None, utc_now())
        if guarded["protected"]:
            guards.check_unused(name, dependents, utc_now())
        if not review.dry_run:
            await self._record_delete(review.user, name, meta.get("uid"), _key_id(key_id))
        return Answer(warnings=(_cost(name, dependents, guards.grace_period(guarded, utc_now())),))

    async def _record_delete(self, user: str, name: str, uid: object, key_id: uuid.UUID) -> None:
        # Where the API server can show no certificate, anybody may send a review: what it says of the object is
        # believed only as far as the object itself says so, and many reviews are not many entries.
        try:
            live = await self.kube.get(own_path(ROOT_KEYS, name))
        except NotFound:
            return
        meta = live["metadata"]
        if meta["uid"] != uid or live["spec"].get("keyID") != str(key_id) or meta.get("deletionTimestamp"):
            return
        await self.records.admit_delete(key_id, name, by=user, root_key_uid=meta["uid"])

    async def _check_weakening(self, old: Json, spec: Json) -> None:
        before, after = _guards_of(_spec(old)), _guards_of(spec)
        if before == after:
            return
        # What is below a floor that came later may stay so, since a key must be suspended in a hurry; until its end.
        self.floors.check(str(_metadata(old).get("name")), after)
        key_id = _spec(old).get("keyID")
        record = await self.records.get(_key_id(key_id)) if key_id else None
        guards.check_weakening(
            str(_metadata(old).get("name")),
            before,
            after,
            ((record or {}).get("status") or {}).get("guards"),
            _field(_field(old, "status"), "dependents"),
            utc_now(),
        )

    async def _check_free(self, key_id: uuid.UUID) -> None:
        policy = await self.snapshot.policy()
        record = await self.records.get(key_id)
        status = (record or {}).get("status") or {}
        if policy.is_destroyed(key_id) or status.get("state") == KeyState.DESTROYED:
            raise Refused(f"the key {key_id} is destroyed (KeyRecord {key_id}); a key ID is never used again")
        if has_begun(status):
            raise Refused(f"the destruction of the key {key_id} has begun: it cannot be restored any more")
        holder = policy.root_key(key_id)
        if holder is not None:
            raise Refused(f"the key {key_id} is held by RootKey {holder.name}: one RootKey per key ID")


def _cost(name: str, dependents: Json, grace_period: timedelta) -> str:
    secrets, namespaces = dependents.get("secrets", 0), dependents.get("namespaces", 0)
    counted = f" (as of {dependents['observedAt']})" if dependents.get("observedAt") else " (not counted yet)"
    when = f"at once, and after the grace period of {grace_period} for ever" if grace_period else "for ever"
    return (
        f"keyshred: RootKey {name}: sealed Secrets: {secrets}, in namespaces: {namespaces}{counted}; "
        f"they become unreadable {when}, in every backup too"
    )


def _guards_of(spec: Json) -> Json:
    given = _field(spec, "destruction")
    if not isinstance(given.get("gracePeriod") or "", str):
        raise Malformed("destruction.gracePeriod is no duration: see kubectl explain")
    return guards.asked({"destruction": given})


def _key_id(given: object) -> uuid.UUID:
    try:
        return uuid.UUID(str(given))  # the schema is held against this only after us
    except ValueError:
        raise Malformed("the keyID is no UUID") from None


def _object(review: Review) -> Json:
    if review.object is None or not isinstance(review.object.get("metadata"), dict):
        raise Malformed("the AdmissionReview carries no object")
    return review.object


def _metadata(obj: Json) -> Json:
    return _field(obj, "metadata")


def _spec(obj: Json) -> Json:
    return _field(obj, "spec")


def _old_spec(review: Review) -> Json:
    return _spec(review.old_object or {})


def _field(obj: Json, name: str) -> Json:
    """An object within an object, {} where there is none. Raises Malformed: the schema is held against it after us."""
    value = obj.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"{name} is not an object: see kubectl explain")
    return value


def _add(path: str, value: Any) -> Json:
    return {"op": "add", "path": path, "value": value}
