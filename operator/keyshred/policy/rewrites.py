"""What becomes of a Secret that is being written: the answer of the policy to a plan of `policy.secrets`."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Final

from keyshred.envelope.format import Born, Envelope, looks_sealed
from keyshred.errors import KeyNotUsable, PolicyNotFresh, Refused
from keyshred.names import ANNOTATION_HELD, LABEL_ROOT_KEY, KeyState, Mode, Sealing
from keyshred.policy.authorizations import Policy, choose_key, sealing_key
from keyshred.policy.resources import Authorization, SecretMeta
from keyshred.policy.secrets import Plan, Write, check_size
from keyshred.policy.states import Action, allows


class Fate(Enum):
    """How the Secret is stored."""

    AS_SENT = auto()
    """It is none of our business."""
    KEPT = auto()
    """Its sealed values as they came, with their envelope: nothing has to be opened."""
    PLAIN = auto()
    """In plaintext, as sent, and without the envelope that it may have had."""
    SEALED = auto()
    MOVED = auto()
    """All values opened under the old key and sealed afresh under the new one."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to be done with a write, and by whose leave."""

    fate: Fate
    authorization: Authorization | None = None
    """The one that decides over the Secret; of SEALED, None: kept values may stay, and nothing new is sealed."""
    compare: bool = False
    """Plaintext over ciphertext may be compared with it."""
    unlabel: bool = False
    """The RootKey label goes too: it was set by us, and chooses nothing any more."""
    warnings: tuple[str, ...] = ()


UNVERIFIED: Final = (
    "keyshred: the key of this Secret is destroyed: it was stored as it came, unverified, and its values can never be "
    "read again"
)
_UNCOVERED: Final = (
    "no KeyAuthorization in force covers this sealed Secret any more to seal it, so its values cannot be changed: give "
    "the namespace a KeyAuthorization that seals, or delete the Secret and create it again in plaintext"
)


def needs_no_policy(write: Write, plan: Plan) -> Ruling | None:
    """What passes in every key state, without the HSM and without a policy; None: the policy decides."""
    if plan.untouched and not chooses_key(write, plan):
        return Ruling(Fate.KEPT if plan.base is not None or not write.data else Fate.AS_SENT)
    if plan.base is None and write.data == write.old_data and (write.deleting or write.immutable):
        # Never sealed and not to be: it is on its way out, or the API server lets no value of it change.
        return Ruling(Fate.AS_SENT)
    return None


def check_can_be_sealed(write: Write, plan: Plan) -> None:
    """For a write that changes nothing, as the sweep makes it: raises Refused where no write can seal what is stored.

    Others may change what they like about such a Secret but its values: finalizers come off whatever it holds.
    """
    if plan.base is None and plan.kept and not write.deleting and not write.immutable:
        marked = min(k for k in plan.kept if looks_sealed(write.data[k]))
        raise Refused(
            f"data[{marked}] starts with KSH1, the mark of a sealed value, without an envelope of this Secret that "
            "belongs to it, so that nothing of it can be sealed: replace it by the plaintext"
        )


def rule(write: Write, plan: Plan, policy: Policy, now: datetime) -> Ruling:
    """Decides over a write that is not settled without a policy.

    Raises Refused and KeyNotUsable, and PolicyNotFresh where the policy does not show what the API server saw.
    """
    if _is_destroyed_restore(plan, policy):
        return Ruling(Fate.KEPT, warnings=(UNVERIFIED,))
    secret = _selected_as(write, plan)
    if plan.base is None and _never_sealed(write) and (passed := _left_unsealed(write, policy)):
        return passed
    authorization = choose_key(policy, write.namespace, secret, now)
    releasing = authorization is not None and authorization.mode is Mode.RELEASE
    sealing = [a.root_key_name for a in policy.covering(write.namespace, secret, now) if a.seals] if releasing else []
    if plan.base is None:
        if sealing:
            raise Refused(
                f"the label {LABEL_ROOT_KEY}={secret.labels[LABEL_ROOT_KEY]} names a RootKey under which nothing new "
                "is sealed here, since its KeyAuthorization is in mode Release; "
                f"authorised: {', '.join(sorted(sealing))}"
            )
        if authorization is None or releasing:
            return Ruling(Fate.PLAIN)
        check_size(write, plan)
        return Ruling(Fate.SEALED, authorization)
    if chooses_key(write, plan) and (moved := _move(write, plan, plan.base, policy, authorization, secret, now)):
        return moved
    # Where another key is to seal it, it waits under the old one until its label says so.
    if releasing and not (sealing or plan.kept or plan.verify):
        return Ruling(Fate.PLAIN, unlabel=True)
    check_size(write, plan)
    if plan.verify and authorization is not None and authorization.key_id != plan.base.key_id:
        raise Refused(
            f"its values are sealed under the key {plan.base.key_id}, and the KeyAuthorization that covers it, "
            f"{authorization.name}, is for another one: authorise that key here, or apply the plaintext"
        )
    compare = bool(plan.compare) and _may_compare(policy, write.namespace, secret, plan.base, authorization, now)
    return Ruling(Fate.SEALED, authorization, compare)


def check_fresh(ruling: Ruling) -> Authorization:
    """Before new values are sealed. Raises Refused where nobody wants them sealed any more."""
    if ruling.authorization is None:
        raise Refused(_UNCOVERED)
    return ruling.authorization


def check_unwrap(base: Envelope, policy: Policy, now: datetime) -> None:
    """Raises KeyNotUsable unless the envelope's key may open values now."""
    state = policy.state(base.key_id, now)
    if state is None or not allows(state, Action.UNSEAL):
        way_out = "; delete it and create it again" if state is KeyState.DESTROYED else ""
        raise KeyNotUsable(
            f"the root key {base.key_id} of Secret {base.namespace}/{base.name} is {state or 'held by no RootKey'}: "
            f"unchanged values pass, changed ones are refused{way_out}"
        )


def chooses_key(write: Write, plan: Plan) -> bool:
    """Whether a sealed Secret's label names another RootKey than before."""
    return plan.base is not None and not write.creating and write.root_key_label not in (None, write.old_root_key_label)


def born(write: Write) -> Born:
    """How a Secret that gets its first envelope came to be sealed."""
    return Born.SEALED if write.creating else Born.ADOPTED


def _selected_as(write: Write, plan: Plan) -> SecretMeta:
    """The Secret as KeyAuthorizations select it; a RootKey label that a replace dropped still counts."""
    meta = SecretMeta.parse(write.secret)
    labels = dict(meta.labels)
    if plan.base is not None and LABEL_ROOT_KEY not in labels and write.old_root_key_label is not None:
        labels[LABEL_ROOT_KEY] = write.old_root_key_label
    return SecretMeta(write.name, meta.type, labels)


def _is_destroyed_restore(plan: Plan, policy: Policy) -> bool:
    """A Secret comes back whole whose key is destroyed: nothing can verify it, and nobody can read it."""
    return (
        plan.base is not None
        and bool(plan.verify)
        and not (plan.fresh or plan.compare)
        and policy.is_destroyed(plan.base.key_id)
    )


def _never_sealed(write: Write) -> bool:
    return write.old_envelope_text is None and not any(map(looks_sealed, write.old_data.values()))


def _left_unsealed(write: Write, policy: Policy) -> Ruling | None:
    """What the namespace says about a Secret that was never sealed; None: nothing.

    The label decides before any KeyAuthorization: that one may be seconds older than the list of what is held, and who
    mounts a Secret natively would get ciphertext. Raises PolicyNotFresh where the API server saw a label that we did
    not see.
    """
    if policy.never_seals(write.namespace):
        return Ruling(Fate.PLAIN)
    match policy.sealing(write.namespace):
        case None:
            raise PolicyNotFresh(
                f"keyshred has not seen the newest labels of the namespace {write.namespace}: try again"
            )
        case Sealing.RETAINED:
            return Ruling(Fate.PLAIN)
    if not policy.holds(write.namespace, write.name):
        return None
    return Ruling(
        Fate.PLAIN,
        warnings=(
            f"keyshred: Secret {write.namespace}/{write.name} was stored in plaintext: it is held (annotation "
            f"{ANNOTATION_HELD} of the namespace), since something may still read it natively; status.held of its "
            "KeyAuthorization says what to restart or change",
        ),
    )


def _move(
    write: Write,
    plan: Plan,
    base: Envelope,
    policy: Policy,
    authorization: Authorization | None,
    secret: SecretMeta,
    now: datetime,
) -> Ruling | None:
    """The label names another RootKey; None: that one holds the same key."""
    name, old = write.root_key_label, policy.root_key(base.key_id)
    target = policy.root_keys.get(name or "")
    if target is not None and target.key_id == base.key_id:
        return None
    where = f"Secret {write.namespace}/{write.name} cannot move to RootKey {name}: "
    if write.immutable:
        raise Refused(f"{where}it is immutable; delete it and create it with the new label")
    state = policy.state(base.key_id, now)
    if old is None or state is not KeyState.ACTIVE:
        raise Refused(
            f"{where}its key {base.key_id} is {state or 'held by no RootKey'}, and both keys must be Active; "
            "put the old label back, or delete the Secret and create it with the new one"
        )
    if not _gives(policy, write.namespace, secret, base, now):
        raise Refused(
            f"{where}no KeyAuthorization gives it the key that it is sealed under, RootKey {old.name}: authorise both, "
            "or delete the Secret and create it with the new label"
        )
    if authorization is None or not authorization.seals:
        raise Refused(
            f"{where}no KeyAuthorization in force seals under that key here: put the old label back, or authorise it"
        )
    sealing_key(policy, authorization, now)
    check_size(write, plan)
    return Ruling(Fate.MOVED, authorization)


def _gives(policy: Policy, namespace: str, secret: SecretMeta, base: Envelope, now: datetime) -> list[Authorization]:
    """KeyAuthorizations under which the envelope may be opened for this Secret."""
    holder = policy.root_key(base.key_id)
    return [
        a
        for a in policy.covering(namespace, secret, now)
        if a.unseals and a.key_id == base.key_id and (holder is None or holder.name == a.root_key_name)
    ]


def _may_compare(
    policy: Policy,
    namespace: str,
    secret: SecretMeta,
    base: Envelope,
    authorization: Authorization | None,
    now: datetime,
) -> bool:
    # To compare is to unseal: not under a key that is no longer given, nor one that opens nothing any more.
    if policy.is_destroyed(base.key_id):
        return False
    if authorization is not None and (authorization.always_reseal or authorization.key_id != base.key_id):
        return False
    giving = _gives(policy, namespace, secret, base, now)
    return bool(giving) and not any(a.always_reseal for a in giving)
