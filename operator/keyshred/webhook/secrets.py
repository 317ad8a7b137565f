"""Admission of Secrets: carries out the plan of `policy.secrets` with the token."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from keyshred.envelope.format import Envelope, serialise
from keyshred.envelope.seal import ValueKeys
from keyshred.errors import CannotOpen, KeyNotUsable, Malformed, MalformedValue, PolicyNotFresh, Refused
from keyshred.names import NEVER_SEALED_NAMESPACES, NEVER_SEALED_TYPES, KeyState
from keyshred.policy.authorizations import Policy, choose_key, sealing_key
from keyshred.policy.resources import Authorization
from keyshred.policy.rewrites import born, check_label, check_relation, is_destroyed_restore, selected_as
from keyshred.policy.secrets import Plan, Values, Write, check_size, make_plan, patch, read_write
from keyshred.policy.states import Action, allows
from keyshred.times import utc_now
from keyshred.webhook.compare_limit import CompareLimit
from keyshred.webhook.keys import Keys
from keyshred.webhook.review import ALLOW, Answer, Review
from keyshred.webhook.snapshot import Snapshot


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
        if is_destroyed_restore(plan, policy):
            return _answer(write, write.data, plan.base, warnings=(_UNVERIFIED,))
        authorization = choose_key(policy, write.namespace, selected_as(write, plan), utc_now())
        if authorization is None and plan.base is None:
            _check_label_seen(write, policy)
            return ALLOW
        check_size(write, plan)
        check_relation(write, plan, authorization)

        comparing = self._may_compare(user, write, plan, policy, authorization)
        unlocked: ValueKeys | None = None
        equal: frozenset[str] = frozenset()
        if plan.base is not None and (plan.verify or comparing):
            unlock = self._unlock if plan.verify or plan.kept else self._try_unlock
            unlocked = await unlock(plan.base, policy)
        if unlocked is not None:
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
            how, when = (plan.base.born, plan.base.born_at) if plan.base else (born(write), now)
            return await self.keys.new(root_key, key_id, write.namespace, write.name, how, when)
        if kept.key_id != key_id:
            raise Refused(
                f"its other values are sealed under another key than RootKey {root_key.name}: "
                "send all values in plaintext, or delete the Secret and create it again"
            )
        return unlocked or await self._unlock(kept, policy), kept

    def _may_compare(
        self, user: str, write: Write, plan: Plan, policy: Policy, authorization: Authorization | None
    ) -> bool:
        if plan.base is None or not plan.compare or authorization is None or authorization.always_reseal:
            return False
        # To compare is to unseal: not under a key that is no longer given, nor one that opens nothing any more.
        if authorization.key_id != plan.base.key_id or policy.is_destroyed(plan.base.key_id):
            return False
        return self.limit.allows(user, write.namespace, write.name)

    def _compare(self, unlocked: ValueKeys, user: str, write: Write, keys: frozenset[str]) -> frozenset[str]:
        equal: set[str] = set()
        for key in keys:
            # Asked for each value: one write with many keys is as many guesses.
            if not self.limit.allows(user, write.namespace, write.name):
                break
            if _equal(unlocked, key, write):
                equal.add(key)
            else:
                self.limit.miss(user, write.namespace, write.name)
        return frozenset(equal)

    async def _unlock(self, base: Envelope, policy: Policy) -> ValueKeys:
        """The keys under the envelope. Raises Refused where it is damaged."""
        unlocked = await self._try_unlock(base, policy)
        if unlocked is None:
            raise Refused(_DAMAGED)
        return unlocked

    async def _try_unlock(self, base: Envelope, policy: Policy) -> ValueKeys | None:
        """The keys under the envelope; None where it is damaged."""
        _check_unwrap(base, policy)
        try:
            unlocked = await self.keys.unlock(base, policy.root_key(base.key_id))
        except CannotOpen:
            return None
        # The token may have taken its time: what it opened counts only if the policy still allows it.
        _check_unwrap(base, self.snapshot.current())
        return unlocked


_DAMAGED = (
    "its envelope does not open: it is damaged or was made by another key; "
    "apply all values in plaintext, or restore the Secret with its annotations"
)
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
        way_out = "; delete it and create it again" if state is KeyState.DESTROYED else ""
        raise KeyNotUsable(
            f"the root key {base.key_id} of Secret {base.namespace}/{base.name} is {state or 'held by no RootKey'}: "
            f"unchanged values pass, changed ones are refused{way_out}"
        )


def _untouched(write: Write, plan: Plan) -> Answer:
    if not write.data:
        return _answer(write, write.data, None)
    if plan.base is None:
        return ALLOW
    check_label(write)
    return _answer(write, write.data, plan.base)


def _check_label_seen(write: Write, policy: Policy) -> None:
    """Before plaintext passes. Raises PolicyNotFresh where the API server saw the sealing label and we did not yet."""
    if policy.sealing(write.namespace) is None and not policy.never_seals(write.namespace):
        raise PolicyNotFresh(f"keyshred has not seen the newest labels of the namespace {write.namespace}: try again")


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


def _answer(
    write: Write,
    data: Values,
    envelope: Envelope | None,
    root_key: str | None = None,
    warnings: tuple[str, ...] = (),
) -> Answer:
    text = serialise(envelope) if envelope else ""
    return Answer(patch(write, data, envelope, text, root_key or write.old_root_key_label), warnings)
