"""Admission of keyshred's own resources: stamps that users cannot give, and the record of an admitted delete."""

import uuid
from dataclasses import dataclass
from typing import Any, Final

from keyshred.errors import Malformed, Refused
from keyshred.kube.records import Records
from keyshred.names import FINALIZER, KeyState
from keyshred.policy.authorizations import Policy
from keyshred.policy.ledger import Action
from keyshred.webhook.review import ALLOW, Answer, Json, Review
from keyshred.webhook.snapshot import Snapshot

GARBAGE_COLLECTOR: Final = "system:serviceaccount:kube-system:generic-garbage-collector"


@dataclass(slots=True)
class Guard:
    """What the admission of RootKeys and KeyAuthorizations needs."""

    snapshot: Snapshot
    records: Records

    async def stamp_root_key(self, review: Review) -> Answer:
        """CREATE: draws the key ID and sets the finalizer. UPDATE: puts back what a replace dropped.

        Raises Refused for a key ID that is given without `origin: Adopted`, in use, or destroyed.
        """
        obj = _object(review)
        spec = obj.get("spec") or {}
        finalizers = list(obj["metadata"].get("finalizers") or ())
        patch: list[Json] = []
        if review.operation == "CREATE":
            given = spec.get("keyID")
            if given and spec.get("origin") != "Adopted":
                raise Refused(
                    "spec.keyID is drawn by keyshred; to take a key that exists, e.g. from a backup of this object, "
                    "give it with origin: Adopted"
                )
            if given:
                _check_free(await self.snapshot.policy(), _key_id(given))
            elif spec.get("origin") != "Adopted":  # without one, Adopted is for the schema to refuse
                patch.append(_add("/spec/keyID", str(uuid.uuid4())))
        elif not spec.get("keyID") and (old := _old_spec(review).get("keyID")):
            patch.append(_add("/spec/keyID", old))
        if FINALIZER not in finalizers and not obj["metadata"].get("deletionTimestamp"):
            patch.append(_add("/metadata/finalizers", [*finalizers, FINALIZER]))
        if patch and obj.get("spec") is None:
            patch.insert(0, _add("/spec", {}))
        return Answer(patch)

    async def stamp_authorization(self, review: Review) -> Answer:
        """Ties a KeyAuthorization to the RootKey that has the name now: a re-created name grants nothing.

        Where there is no such RootKey yet, the controller stamps it when it comes. Raises Refused for the key ID of
        another key than the RootKey of that name.
        """
        ref = (_object(review).get("spec") or {}).get("rootKeyRef") or {}
        given, old = ref.get("keyID"), (_old_spec(review).get("rootKeyRef") or {}).get("keyID")
        if old:
            return ALLOW if given else Answer([_add("/spec/rootKeyRef/keyID", old)])
        root_key = (await self.snapshot.policy()).root_keys.get(ref.get("name", ""))
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

        Raises Refused for the garbage collector: nobody asked for that delete.
        """
        obj = review.old_object
        if review.operation != "DELETE" or obj is None:
            return ALLOW
        if review.user == GARBAGE_COLLECTOR:
            raise Refused("a RootKey is destroyed only when somebody asks for it, never by garbage collection")
        meta, key_id = obj["metadata"], (obj.get("spec") or {}).get("keyID")
        if meta.get("deletionTimestamp") or not key_id:
            return ALLOW
        if not review.dry_run:
            await self.records.ensure(uuid.UUID(key_id), meta["name"], by=review.user)
            await self.records.append(
                uuid.UUID(key_id), action=Action.DELETE_ADMITTED, by=review.user, root_key_uid=meta["uid"]
            )
        dependents = (obj.get("status") or {}).get("dependents") or {}
        secrets, namespaces = dependents.get("secrets", 0), dependents.get("namespaces", 0)
        counted = f" (as of {dependents['observedAt']})" if dependents.get("observedAt") else " (not counted yet)"
        return Answer(
            warnings=(
                f"keyshred: RootKey {meta['name']}: {secrets} Secrets in {namespaces} namespaces{counted} "
                "become unreadable for ever, in every backup too",
            )
        )


def _key_id(given: object) -> uuid.UUID:
    try:
        return uuid.UUID(str(given))  # the schema is held against this only after us
    except ValueError:
        raise Malformed("the keyID is no UUID") from None


def _check_free(policy: Policy, key_id: uuid.UUID) -> None:
    if policy.records.get(key_id) is KeyState.DESTROYED:
        raise Refused(f"the key {key_id} is destroyed (KeyRecord {key_id}); a key ID is never used again")
    holder = policy.root_key(key_id)
    if holder is not None:
        raise Refused(f"the key {key_id} is held by RootKey {holder.name}: one RootKey per key ID")


def _object(review: Review) -> Json:
    if review.object is None or not isinstance(review.object.get("metadata"), dict):
        raise Malformed("the AdmissionReview carries no object")
    return review.object


def _old_spec(review: Review) -> Json:
    return (review.old_object or {}).get("spec") or {}


def _add(path: str, value: Any) -> Json:
    return {"op": "add", "path": path, "value": value}
