"""The life of a root key up to its destruction: what its states, conditions and next moments are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from keyshred import names
from keyshred.envelope.format import Born
from keyshred.names import KeyState, Reason
from keyshred.policy.conditions import Condition, Status
from keyshred.policy.found import Sealed
from keyshred.policy.ledger import Action
from keyshred.policy.resources import Object, RootKey
from keyshred.policy.states import effective
from keyshred.times import rfc3339

UNGUARDED_CLAUSE: Final = (
    "; the token stores no data objects, so nothing guards against another cluster's use of the key or an old KeyRecord"
)
SOFTWARE_CLAUSE: Final = "; a software token holds it, so a destroyed key is gone in the sense of software-logical only"

_READY: Final = {
    KeyState.ACTIVE: (Status.TRUE, Reason.KEY_ACTIVE, "the key seals and unseals"),
    KeyState.SUSPENDED: (
        Status.FALSE,
        Reason.KEY_SUSPENDED,
        "spec.suspended is true: nothing is sealed or unsealed until it is false",
    ),
    KeyState.DEACTIVATED: (
        Status.FALSE,
        Reason.KEY_DEACTIVATED,
        "spec.expirationTime has passed: the key still unseals, but seals nothing new",
    ),
    KeyState.PRE_ACTIVATION: (
        Status.FALSE,
        Reason.NOT_YET_ACTIVE,
        "the key exists; it seals and unseals from spec.activationTime on",
    ),
}


@dataclass(frozen=True, slots=True)
class Material:
    """What is known of the key on the token."""

    present: Status
    reason: Reason
    message: str
    software: bool = False
    """On a token without hardware behind it."""
    guarded: bool = True
    """The token keeps claims and the ledger's head."""


@dataclass(frozen=True, slots=True)
class Dependents:
    """What only this key can open, as counted from metadata."""

    secrets: int
    namespaces: int
    by_version: Mapping[int, int]
    adopted: int
    earliest_adoption: datetime | None
    observed_at: datetime


def has_material(record_status: Mapping[str, Any]) -> bool:
    """Whether the KeyRecord knows a version of the key."""
    return bool(record_status.get("versions"))


def is_lost(key: RootKey, record_status: Mapping[str, Any] | None) -> bool:
    """Whether the key had a KeyRecord with versions once, as its RootKey shows, and has it no more."""
    return bool(key.versions) and (record_status is None or not has_material(record_status))


def intended_state(key: RootKey, record_status: Mapping[str, Any], now: datetime) -> KeyState:
    """The state that KeyRecord and RootKey are to show.

    Not from what they show already: a key whose activation lies ahead is shown as PreActivation, which `effective`
    takes to mean that there is no key yet.
    """
    return effective(
        KeyState.ACTIVE if has_material(record_status) else KeyState.PRE_ACTIVATION,
        deleting=key.deleting,
        suspended=key.suspended,
        activation=key.activation,
        expiration=key.expiration,
        now=now,
    )


def transition(before: KeyState, after: KeyState) -> Action:
    """The ledger's word for a change of state."""
    match after:
        case KeyState.ACTIVE:
            return Action.ACTIVATED if before is KeyState.PRE_ACTIVATION else Action.RESUMED
        case KeyState.DEACTIVATED:
            return Action.DEACTIVATED
        case _:
            # Back to PreActivation too: activationTime was moved ahead, so the key rests.
            return Action.SUSPENDED


def next_moment(key: RootKey, now: datetime) -> datetime | None:
    """When the clock alone changes the state next; None: never."""
    ahead = [t for t in (key.activation, key.expiration) if t is not None and t > now]
    return min(ahead, default=None)


def conditions(state: KeyState, material: Material) -> tuple[Condition, Condition]:
    """Ready and KeyMaterialPresent."""
    present = Condition(names.Condition.KEY_MATERIAL_PRESENT, material.present, material.reason, material.message)
    if material.present is not Status.TRUE:
        return not_ready(material.reason, material.message), present
    status, reason, message = _READY[state]
    if material.software:
        message += SOFTWARE_CLAUSE
    if not material.guarded:
        message += UNGUARDED_CLAUSE
    return Condition(names.Condition.READY, status, reason, message), present


def not_ready(reason: Reason, message: str) -> Condition:
    """Ready=False."""
    return Condition(names.Condition.READY, Status.FALSE, reason, message)


def status(
    obj: Object, record_status: Mapping[str, Any], state: KeyState, dependents: Dependents | None, *, fresh: timedelta
) -> dict[str, Any]:
    """The RootKey's status but for its conditions. Counts that did not change keep their time for `fresh`."""
    old = obj.get("status") or {}
    result = dict(old) | {"state": state.value}
    if versions := record_status.get("versions") or ():
        current = max(v["version"] for v in versions)
        result["currentVersion"] = current
        result["versions"] = [_version(v, v["version"] == current, state, dependents) for v in versions]
    if dependents is not None:
        counted = {"secrets": dependents.secrets, "namespaces": dependents.namespaces}
        shown = old.get("dependents") or {}
        same = shown == counted | {"observedAt": shown.get("observedAt")}
        if not same or datetime.fromisoformat(shown["observedAt"]) + fresh <= dependents.observed_at:
            shown = counted | {"observedAt": rfc3339(dependents.observed_at)}
        result["dependents"] = shown
    return result


def _version(
    version: Mapping[str, Any], current: bool, state: KeyState, dependents: Dependents | None
) -> dict[str, Any]:
    shown = {k: version[k] for k in ("version", "createdAt", "checkValue", "mechanism") if k in version}
    shown["state"] = (state if current or state is not KeyState.ACTIVE else KeyState.DEACTIVATED).value
    if dependents is not None:
        shown["secrets"] = dependents.by_version.get(version["version"], 0)
    return shown


@dataclass(slots=True)
class Tally:
    """Counts the dependents of one key, one Secret at a time."""

    namespaces: set[str] = field(default_factory=set)
    by_version: Counter[int] = field(default_factory=Counter)
    adopted: int = 0
    earliest_adoption: datetime | None = None

    def add(self, namespace: str, sealed: Sealed) -> None:
        """One Secret of that namespace."""
        self.namespaces.add(namespace)
        self.by_version[sealed.key_version] += 1
        if sealed.born is Born.ADOPTED:
            self.adopted += 1
            self.earliest_adoption = min(self.earliest_adoption or sealed.born_at, sealed.born_at)

    def result(self, observed_at: datetime) -> Dependents:
        """What was counted."""
        return Dependents(
            secrets=self.by_version.total(),
            namespaces=len(self.namespaces),
            by_version=dict(self.by_version),
            adopted=self.adopted,
            earliest_adoption=self.earliest_adoption,
            observed_at=observed_at,
        )
