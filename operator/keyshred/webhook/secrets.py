"""Admission of Secrets: carries out the plan of `policy.secrets` with the token."""

import hmac
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from keyshred.envelope.format import Born, Envelope, serialise
from keyshred.envelope.seal import ValueKeys
from keyshred.errors import CannotOpen, KeyNotUsable, Malformed, MalformedValue, PolicyNotFresh, Refused
from keyshred.names import LABEL_ROOT_KEY, NEVER_SEALED_NAMESPACES, NEVER_SEALED_TYPES, KeyState
from keyshred.policy.authorizations import Policy, choose_key, sealing_key
from keyshred.policy.resources import Authorization, SecretMeta
from keyshred.policy.secrets import Plan, Values, Write, check_size, make_plan, patch, read_write
from keyshred.policy.states import Action, allows
from keyshred.webhook.compare_limit import CompareLimit
from keyshred.webhook.keys import Keys
from keyshred.webhook.review import ALLOW, Answer, Review
from keyshred.webhook.snapshot import Snapshot, utc_now

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SecretAdmission:
    """What a Secret's admission needs."""

    snapshot: Snapshot
    keys: Keys
    limit: CompareLimit

    async def admit(self, review: Review) -> Answer:
        """Seals a Secret on CREATE and UPDATE. Raises a KeyshredError where it must not be stored as it would be."""
        if review.operation not in ("CREATE", "UPDATE"):
            return ALLOW
        if review.object is None or (review.operation == "UPDATE" and review.old_object is None):
            raise Malformed("the AdmissionReview carries no object")
        if review.namespace in NEVER_SEALED_NAMESPACES or review.object.get("type") in NEVER_SEALED_TYPES:
            return ALLOW
        old = review.old_object if review.operation == "UPDATE" else None
        write = read_write(review.namespace, review.name, review.object, old)
        plan = make_plan(write)
        if plan.untouched:
            return _untouched(write, plan)
        if plan.base is None and write.data == write.old_data and (write.deleting or write.immutable):
            # Never sealed and not to be: it is on its way out, or the API server lets no value of it change.
            return ALLOW
        policy = await self.snapshot.policy()
        if review.namespace not in policy.namespaces:
            raise PolicyNotFresh(f"keyshred does not know the namespace {review.namespace} yet: try again")
        return await self._seal(review.user, write, plan, policy)

    async def _seal(self, user: str, write: Write, plan: Plan, policy: Policy) -> Answer:
        if _is_destroyed_restore(plan, policy):
            return _answer(write, write.data, plan.base, warnings=(_UNVERIFIED,))
        authorization = choose_key(policy, write.namespace, _secret_meta(write, plan), utc_now())
        if authorization is None and plan.base is None:
            _check_label_seen(write, policy)
            return ALLOW
        check_size(write, plan)
        _check_relation(write, plan, authorization)

        comparing = self._may_compare(user, write, plan, authorization)
        unlocked: ValueKeys | None = None
        equal: frozenset[str] = frozenset()
        if plan.base is not None and (plan.verify or comparing):
            unlocked = await self._unlock(plan.base, policy)
            _verify(unlocked, write, plan.verify)
            if comparing:
                equal = self._compare(unlocked, user, write, plan.compare)
        data = dict(write.data) | {k: write.old_data[k] for k in equal}
        envelope = plan.base
        if fresh := (plan.fresh | plan.compare) - equal:
            if authorization is None:
                raise Refused(_UNCOVERED)
            kept = plan.base if plan.kept | plan.verify | equal else None
            unlocked, envelope = await self._keys_for_fresh(write, plan, policy, authorization, kept, unlocked)
            data |= {k: unlocked.seal(k, write.data[k]) for k in fresh}
        return _answer(write, data, envelope, authorization.root_key_name if authorization else None)

    async def _keys_for_fresh(
        self,
        write: Write,
        plan: Plan,
        policy: Policy,
        authorization: Authorization,
        kept: Envelope | None,
        unlocked: ValueKeys | None,
    ) -> tuple[ValueKeys, Envelope]:
        """The DEK of the values that are kept, or a new one where none is."""
        now = utc_now()
        root_key, key_id = sealing_key(policy, authorization, now)
        if kept is None:
            born, born_at = (plan.base.born, plan.base.born_at) if plan.base else (_born(write), now)
            return await self.keys.new(root_key, key_id, write.namespace, write.name, born, born_at)
        if kept.key_id != key_id:
            raise Refused(
                f"its other values are sealed under another key than RootKey {root_key.name}: "
                "send all values in plaintext, or delete the Secret and create it again"
            )
        return unlocked or await self._unlock(kept, policy), kept

    def _may_compare(self, user: str, write: Write, plan: Plan, authorization: Authorization | None) -> bool:
        if not plan.compare or (authorization is not None and authorization.always_reseal):
            return False
        return self.limit.allows(user, write.namespace, write.name)

    def _compare(self, unlocked: ValueKeys, user: str, write: Write, keys: frozenset[str]) -> frozenset[str]:
        equal = frozenset(k for k in keys if _equal(unlocked, k, write))
        for _ in keys - equal:
            self.limit.miss(user, write.namespace, write.name)
        return equal

    async def _unlock(self, base: Envelope, policy: Policy) -> ValueKeys:
        _check_unwrap(base, policy)
        try:
            unlocked = await self.keys.unlock(base, policy.root_key(base.key_id))
        except CannotOpen:
            raise Refused("its envelope does not open: it is damaged or was made by another key") from None
        # The token may have taken its time: what it opened counts only if the policy still allows it.
        _check_unwrap(base, self.snapshot.current())
        return unlocked


_UNVERIFIED = (
    "keyshred: the key of this Secret is destroyed: it was stored as it came, unverified, and its values can never be "
    "read again"
)
_UNCOVERED = (
    "no KeyAuthorization in force covers this sealed Secret any more, so its values cannot be changed: give the "
    "namespace a KeyAuthorization, or delete the Secret and create it again in plaintext"
)


def _check_unwrap(base: Envelope, policy: Policy) -> None:
    state = policy.state(base.key_id, utc_now())
    if state is None or not allows(state, Action.UNSEAL):
        raise KeyNotUsable(
            f"the root key {base.key_id} of this Secret is {state or 'held by no RootKey'}: "
            "unchanged values pass, changed ones are refused"
        )


def _secret_meta(write: Write, plan: Plan) -> SecretMeta:
    """The Secret as KeyAuthorizations select it; a RootKey label that a replace dropped still counts."""
    meta = SecretMeta.parse(write.secret)
    labels = dict(meta.labels)
    if plan.base is not None and LABEL_ROOT_KEY not in labels and write.old_root_key_label is not None:
        labels[LABEL_ROOT_KEY] = write.old_root_key_label
    return SecretMeta(write.name, meta.type, labels)


def _untouched(write: Write, plan: Plan) -> Answer:
    if not write.data:
        return _answer(write, write.data, None)
    if plan.base is None:
        return ALLOW
    _check_label(write)
    return _answer(write, write.data, plan.base)


def _check_label_seen(write: Write, policy: Policy) -> None:
    """Before plaintext passes. Raises PolicyNotFresh where the API server saw the sealing label and we did not yet."""
    if policy.sealing(write.namespace) is None and not policy.never_seals(write.namespace):
        raise PolicyNotFresh(f"keyshred has not seen the newest labels of the namespace {write.namespace}: try again")


def _check_label(write: Write) -> None:
    if write.root_key_label not in (None, write.old_root_key_label) and write.old_root_key_label is not None:
        raise Refused(
            f"not yet: moving a sealed Secret from RootKey {write.old_root_key_label} to {write.root_key_label}; "
            "delete the Secret and create it with the new label"
        )


def _check_relation(write: Write, plan: Plan, authorization: Authorization | None) -> None:
    """Whether the envelope at hand may live here. Raises Refused."""
    if plan.base is None:
        return
    if not write.creating:
        _check_label(write)
    if plan.verify and authorization is not None and authorization.key_id != plan.base.key_id:
        raise Refused(
            f"its values are sealed under the key {plan.base.key_id}, and the KeyAuthorization that covers it, "
            f"{authorization.name}, is for another one: authorise that key here, or apply the plaintext"
        )


def _is_destroyed_restore(plan: Plan, policy: Policy) -> bool:
    return (
        plan.base is not None
        and bool(plan.verify)
        and not (plan.fresh or plan.compare)
        and policy.records.get(plan.base.key_id) is KeyState.DESTROYED
    )


def _verify(keys: ValueKeys, write: Write, names: Iterable[str]) -> None:
    for key in names:
        try:
            keys.open(key, write.data[key])
        except (CannotOpen, MalformedValue):
            raise Refused(
                f"data[{key}] is sealed but does not open as this value of this Secret: "
                "it is damaged or was copied from elsewhere; apply the plaintext"
            ) from None


def _equal(keys: ValueKeys, key: str, write: Write) -> bool:
    try:
        return hmac.compare_digest(keys.open(key, write.old_data[key]), write.data[key])
    except (CannotOpen, MalformedValue):
        return False  # what is stored is damaged: the new value replaces it


def _born(write: Write) -> Born:
    return Born.SEALED if write.creating else Born.ADOPTED


def _answer(
    write: Write,
    data: Values,
    envelope: Envelope | None,
    root_key: str | None = None,
    warnings: tuple[str, ...] = (),
) -> Answer:
    text = serialise(envelope) if envelope else ""
    return Answer(patch(write, data, envelope, text, root_key or write.old_root_key_label), warnings)
