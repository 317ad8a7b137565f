"""Which root key a Secret belongs to, and who may unseal it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from keyshred.errors import KeyGone, KeyNotUsable, NotAllowed, Refused
from keyshred.names import (
    BY_NAME_ONLY_TYPES,
    HELD_ALL,
    LABEL_ROOT_KEY,
    LABEL_SEALING,
    NEVER_SEALED_NAMESPACES,
    NEVER_SEALED_TYPES,
    KeyState,
    Mode,
    Sealing,
)
from keyshred.policy.resources import Authorization, RootKey, SecretMeta
from keyshred.policy.selectors import Labels
from keyshred.policy.states import FINAL, Action, allows


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that decides, at one moment."""

    own_namespace: str
    root_keys: Mapping[str, RootKey] = field(default_factory=dict)
    """By name."""
    authorizations: tuple[Authorization, ...] = ()
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    """Labels by namespace."""
    records: Mapping[UUID, KeyState] = field(default_factory=dict)
    """State in the KeyRecord by key ID: it outlives the RootKey."""
    held: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By namespace: names of Secrets that stay unsealed for now, or HELD_ALL."""

    def never_seals(self, namespace: str) -> bool:
        """Whether nothing in the namespace is ever sealed, whatever its label says."""
        return namespace in NEVER_SEALED_NAMESPACES or namespace == self.own_namespace

    def sealing(self, namespace: str) -> Sealing | None:
        """The namespace's label, or None where keyshred has no business."""
        if self.never_seals(namespace):
            return None
        try:
            return Sealing(self.namespaces.get(namespace, {})[LABEL_SEALING])
        except (KeyError, ValueError):
            return None

    def holds(self, namespace: str, name: str) -> bool:
        """Whether a Secret of that name stays unsealed for now, if it was never sealed."""
        return not self.held.get(namespace, frozenset()).isdisjoint((name, HELD_ALL))

    def selecting(self, namespace: str, labels: Labels, now: datetime) -> list[Authorization]:
        """KeyAuthorizations in force that select the namespace; those in Preview count for nothing."""
        if self.never_seals(namespace):
            return []
        return [
            a
            for a in self.authorizations
            if a.in_force(now) and a.mode is not Mode.PREVIEW and a.selects_namespace(namespace, labels)
        ]

    def left_out(self, namespace: str) -> frozenset[str]:
        """Names that every KeyAuthorization which selects the namespace leaves out: pods have these from Kubernetes.

        One that has expired counts, as in the policy on pods: what it sealed is there.
        """
        labels = self.namespaces.get(namespace, {})
        selecting = [
            a.exclude_names
            for a in self.authorizations
            if a.mode is not Mode.PREVIEW and a.selects_namespace(namespace, labels)
        ]
        return frozenset.intersection(*selecting) if selecting else frozenset()

    def covering(self, namespace: str, secret: SecretMeta, now: datetime) -> list[Authorization]:
        """KeyAuthorizations in force that mean this Secret."""
        if secret.type in NEVER_SEALED_TYPES:
            return []
        return [
            a
            for a in self.selecting(namespace, self.namespaces.get(namespace, {}), now)
            if a.selects_type(secret.type, BY_NAME_ONLY_TYPES) and a.selects_labels(secret)
        ]

    def root_key(self, key_id: UUID) -> RootKey | None:
        """The RootKey that holds this key ID, if there is one."""
        return next((k for k in self.root_keys.values() if k.key_id == key_id), None)

    def is_destroyed(self, key_id: UUID) -> bool:
        """Whether the key's record says so: it outlives the RootKey."""
        return self.records.get(key_id) is KeyState.DESTROYED

    def state(self, key_id: UUID, now: datetime) -> KeyState | None:
        """The key's state; how it ends is known from its KeyRecord; None: no RootKey holds it."""
        if (recorded := self.records.get(key_id)) in FINAL:
            return recorded
        key = self.root_key(key_id)
        return key.state(now) if key else None


def choose_key(policy: Policy, namespace: str, secret: SecretMeta, now: datetime) -> Authorization | None:
    """The KeyAuthorization that decides over the Secret; None: nobody wants it sealed or released.

    It seals, or its mode is Release. Raises Refused where several keys are authorised and the label decides nothing, or
    where it names another key.
    """
    covering = [a for a in policy.covering(namespace, secret, now) if a.seals or a.mode is Mode.RELEASE]
    sealing = [a for a in covering if a.seals]
    chosen = secret.labels.get(LABEL_ROOT_KEY)
    names = sorted({a.root_key_name for a in sealing})
    if chosen is None:
        if len(names) > 1:
            raise Refused(
                f"the RootKeys {', '.join(names)} are all authorised for this Secret: "
                f"choose one with the label {LABEL_ROOT_KEY}"
            )
        candidates = sealing or covering
    else:
        candidates = [a for a in covering if a.root_key_name == chosen]
        if not candidates and sealing:
            raise Refused(
                f"the label {LABEL_ROOT_KEY}={chosen} names a RootKey that no KeyAuthorization gives this Secret; "
                f"authorised: {', '.join(names)}"
            )

    def rank(a: Authorization) -> tuple[bool, bool, bool]:
        # One that was stamped for an earlier key of this name still covers, lest plaintext be stored, but grants
        # nothing. Of several, one that asks for AlwaysReseal: they come in no order, and the stricter one must not win
        # by chance.
        key = policy.root_keys.get(a.root_key_name)
        return a.seals, key is not None and a.key_id == key.key_id, a.always_reseal

    return max(candidates, key=rank, default=None)


def sealing_key(policy: Policy, authorization: Authorization, now: datetime) -> tuple[RootKey, UUID]:
    """The Active RootKey of an authorization, and its key ID.

    Raises KeyNotUsable naming the object, the cause and the next step.
    """
    name = authorization.root_key_name
    key = policy.root_keys.get(name)
    if key is None:
        raise KeyNotUsable(
            f"RootKey {name} of KeyAuthorization {authorization.name} does not exist: "
            "create it, or delete the KeyAuthorization"
        )
    if key.key_id is None or authorization.key_id != key.key_id:
        raise KeyNotUsable(
            f"KeyAuthorization {authorization.name} was given for an earlier key named {name}, or is not stamped yet: "
            "if this lasts, delete it and create it again"
        )
    state = key.state(now)
    if not allows(state, Action.SEAL) or key.current_version not in key.versions:
        raise KeyNotUsable(f"RootKey {name} is {state}: new values are sealed only while it is Active")
    return key, key.key_id


class Verdict(StrEnum):
    """Why an unseal is refused, for the audit line; the caller sees less."""

    NOT_SEALING = "NamespaceNotSealing"
    NOT_AUTHORIZED = "NotAuthorized"
    NOT_BOUND = "NotBoundToReferringPod"
    KEY_UNKNOWN = "RootKeyNotFound"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a ServiceAccount, by a token that may be bound to a pod."""

    namespace: str
    name: str
    refers: bool
    """The token is bound to a living pod, and that pod refers to the Secret."""

    def granted(self, authorization: Authorization, namespace: str) -> bool:
        """Whether the authorization lets this caller unseal in `namespace`."""
        if not authorization.unseals:
            return False
        for s in authorization.subjects:
            if (s.namespace, s.name) == (self.namespace, self.name):
                return s.allow_unbound or (self.refers and self.namespace == namespace)
        return not authorization.subjects and self.refers and self.namespace == namespace


def may_unseal(
    policy: Policy, namespace: str, secret: SecretMeta | None, key_id: UUID | None, caller: Caller, now: datetime
) -> list[Authorization]:
    """Returns the KeyAuthorizations that let the caller have the Secret's values.

    None is needed for what is not sealed, and what no KeyAuthorization means to be: a pod that refers to it gets it, as
    the kubelet would give it.

    `secret` None: there is no such Secret, or it is not known yet; `key_id` None: it is not sealed. Raises NotAllowed,
    KeyGone (destroyed) or KeyNotUsable (suspended, pending): the last two only to a caller who would otherwise be
    served.
    """
    if policy.sealing(namespace) is None:
        raise NotAllowed(Verdict.NOT_SEALING)
    own = caller.refers and caller.namespace == namespace
    if secret is None:
        granting = policy.selecting(namespace, policy.namespaces.get(namespace, {}), now)
    else:
        granting = policy.covering(namespace, secret, now)
    if own and key_id is None and (secret is None or not granting):
        return []
    if key_id is not None:
        holder = policy.root_key(key_id)
        # Name and key ID: the right to use a RootKey was asked by its name, so a key ID alone must open nothing.
        granting = [a for a in granting if a.key_id == key_id and (not holder or holder.name == a.root_key_name)]
    if not granting:
        raise NotAllowed(Verdict.NOT_AUTHORIZED)
    granted = [a for a in granting if caller.granted(a, namespace)]
    if not granted:
        raise NotAllowed(Verdict.NOT_AUTHORIZED if caller.refers else Verdict.NOT_BOUND)
    if key_id is None:
        return granted
    state = policy.state(key_id, now)
    if state is KeyState.DESTROYED:
        raise KeyGone("the key of this Secret is destroyed: its values cannot be read again by anyone")
    if state is None:
        raise NotAllowed(Verdict.KEY_UNKNOWN)
    if not allows(state, Action.UNSEAL):
        raise KeyNotUsable(f"the root key of this Secret is {state}: nothing is unsealed while it is")
    return granted
