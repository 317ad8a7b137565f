"""Whether the envelope of a Secret that is being written may stay, and under what the Secret is selected meanwhile."""

from keyshred.envelope.format import Born
from keyshred.errors import Refused
from keyshred.names import LABEL_ROOT_KEY
from keyshred.policy.authorizations import Policy
from keyshred.policy.resources import Authorization, SecretMeta
from keyshred.policy.secrets import Plan, Write


def selected_as(write: Write, plan: Plan) -> SecretMeta:
    """The Secret as KeyAuthorizations select it; a RootKey label that a replace dropped still counts."""
    meta = SecretMeta.parse(write.secret)
    labels = dict(meta.labels)
    if plan.base is not None and LABEL_ROOT_KEY not in labels and write.old_root_key_label is not None:
        labels[LABEL_ROOT_KEY] = write.old_root_key_label
    return SecretMeta(write.name, meta.type, labels)


def check_label(write: Write) -> None:
    """Raises Refused where the label moves a sealed Secret to another RootKey."""
    if write.old_root_key_label is not None and write.root_key_label not in (None, write.old_root_key_label):
        raise Refused(
            f"not yet: moving a sealed Secret from RootKey {write.old_root_key_label} to {write.root_key_label}; "
            "delete the Secret and create it with the new label"
        )


def check_relation(write: Write, plan: Plan, authorization: Authorization | None) -> None:
    """Whether the plan's envelope may live here under this authorization. Raises Refused."""
    if plan.base is None:
        return
    if not write.creating:
        check_label(write)
    if plan.verify and authorization is not None and authorization.key_id != plan.base.key_id:
        raise Refused(
            f"its values are sealed under the key {plan.base.key_id}, and the KeyAuthorization that covers it, "
            f"{authorization.name}, is for another one: authorise that key here, or apply the plaintext"
        )


def is_destroyed_restore(plan: Plan, policy: Policy) -> bool:
    """A Secret comes back whole whose key is destroyed: nothing can verify it, and nobody can read it."""
    return (
        plan.base is not None
        and bool(plan.verify)
        and not (plan.fresh or plan.compare)
        and policy.is_destroyed(plan.base.key_id)
    )


def born(write: Write) -> Born:
    """How a Secret that gets its first envelope came to be sealed."""
    return Born.SEALED if write.creating else Born.ADOPTED
