"""Admission of Secrets: carries out the ruling of `policy.rewrites` with the token."""

import hmac
from dataclasses import dataclass
from typing import Final

from keyshred.envelope.format import Envelope, serialise
from keyshred.envelope.seal import ValueKeys
from keyshred.errors import CannotOpen, Malformed, MalformedValue, PolicyNotFresh, Refused
from keyshred.names import NEVER_SEALED_NAMESPACES, NEVER_SEALED_TYPES
from keyshred.policy.authorizations import Policy, sealing_key
from keyshred.policy.resources import Authorization
from keyshred.policy.rewrites import (
    Fate,
    Ruling,
    born,
    check_can_be_sealed,
    check_fresh,
    check_unwrap,
    needs_no_policy,
    rule,
)
from keyshred.policy.secrets import Plan, Values, Write, make_plan, patch, read_write, unsealed_patch
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
        if (ruling := needs_no_policy(write, plan)) is not None:
            if old == review.object:
                check_can_be_sealed(write, plan)
            return _unopened(write, plan, ruling)
        policy = await self.snapshot.policy(review.namespace)
        if review.namespace not in policy.namespaces:
            raise PolicyNotFresh(f"keyshred does not know the namespace {review.namespace} yet: try again")
        ruling = rule(write, plan, policy, utc_now())
        match ruling.fate:
            case Fate.SEALED:
                return await self._seal(review.user, write, plan, policy, ruling)
            case Fate.MOVED:
                return await self._move(write, plan, policy, check_fresh(ruling))
            case _:
                return _unopened(write, plan, ruling)

    async def _seal(self, user: str, write: Write, plan: Plan, policy: Policy, ruling: Ruling) -> Answer:
        comparing = ruling.compare and self.limit.allows(user, write.namespace, write.name)
        unlocked: ValueKeys | None = None
        equal: frozenset[str] = frozenset()
        if plan.base is not None and (plan.verify or comparing):
            unlock = self._unlock if plan.verify or plan.kept else self._try_unlock
            unlocked = await unlock(plan.base, policy)
        if unlocked is not None:
            for key in plan.verify:
                _open(unlocked, key, write)
            if comparing:
                equal = self._compare(unlocked, user, write, plan.compare)
        data = dict(write.data) | {k: write.old_data[k] for k in equal}
        envelope = plan.base
        if fresh := (plan.fresh | plan.compare) - equal:
            kept = plan.base if plan.kept | plan.verify | equal else None
            unlocked, envelope = await self._keys_for_fresh(write, plan, policy, check_fresh(ruling), kept, unlocked)
            data |= {k: unlocked.seal(k, write.data[k]) for k in fresh}
        return self._sealed(write, plan, data, envelope, ruling.authorization)

    async def _move(self, write: Write, plan: Plan, policy: Policy, authorization: Authorization) -> Answer:
        plain = dict(write.data)
        if (sealed := plan.kept | plan.verify) and plan.base is not None:
            unlocked = await self._unlock(plan.base, policy)
            plain |= {k: _open(unlocked, k, write) for k in sealed}
        keys, envelope = await self._keys_for_fresh(write, plan, policy, authorization, None, None)
        data = {k: keys.seal(k, v) for k, v in plain.items()}
        return self._sealed(write, plan, data, envelope, authorization)

    def _sealed(
        self, write: Write, plan: Plan, data: Values, envelope: Envelope | None, authorization: Authorization | None
    ) -> Answer:
        name, warnings = authorization.root_key_name if authorization else None, tuple[str, ...]()
        if envelope is not None and envelope is not plan.base and self.keys.rotation_due(envelope):
            warnings = (_ROTATE.format(name=name, version=envelope.key_version),)
        return _answer(write, data, envelope, name, warnings)

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
        check_unwrap(base, policy, utc_now())
        try:
            unlocked = await self.keys.unlock(base, policy.root_key(base.key_id))
        except CannotOpen:
            return None
        # The token may have taken its time: what it opened counts only if the policy still allows it.
        check_unwrap(base, self.snapshot.current(), utc_now())
        return unlocked


_DAMAGED: Final = (
    "its envelope does not open: it is damaged or was made by another key; "
    "apply all values in plaintext, or restore the Secret with its annotations"
)
_ROTATE: Final = (
    "keyshred: RootKey {name} has wrapped 2^30 data keys or more under its version {version}; at 2^31 nothing more is "
    "sealed under it: rotate it, or create another RootKey and move Secrets there"
)


def _open(keys: ValueKeys, key: str, write: Write) -> bytes:
    try:
        return keys.open(key, write.data[key])
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


def _unopened(write: Write, plan: Plan, ruling: Ruling) -> Answer:
    """For what is stored without asking the token."""
    match ruling.fate:
        case Fate.KEPT:
            return _answer(write, write.data, plan.base if write.data else None, None, ruling.warnings)
        case Fate.PLAIN:
            return Answer(unsealed_patch(write, ruling.unlabel), ruling.warnings)
        case _:
            return ALLOW


def _answer(
    write: Write, data: Values, envelope: Envelope | None, root_key: str | None, warnings: tuple[str, ...]
) -> Answer:
    text = serialise(envelope) if envelope else ""
    return Answer(patch(write, data, envelope, text, root_key or write.old_root_key_label), warnings)
