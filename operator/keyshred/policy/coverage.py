"""What KeyAuthorizations cover: the label of each namespace, and what each one's status says."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from keyshred import names
from keyshred.envelope.format import Envelope
from keyshred.names import BY_NAME_ONLY_TYPES, LABEL_ROOT_KEY, LABEL_SEALING, Reason, Sealing
from keyshred.policy.authorizations import Policy
from keyshred.policy.conditions import Condition, Status
from keyshred.policy.resources import SEAL, Authorization, SecretMeta
from keyshred.policy.selectors import Labels
from keyshred.policy.states import Action, allows

_NAMED: Final = 5
"""Names in a message; the rest is a number."""


def wanted_label(policy: Policy, namespace: str, labels: Labels, now: datetime) -> Sealing | None:
    """What the KeyAuthorizations in force want the namespace's label to be; None: they do not select it."""
    selecting = policy.selecting(namespace, labels, now)
    if not selecting:
        return None
    return Sealing.ENABLED if any(SEAL in a.operations for a in selecting) else Sealing.RETAINED


def next_expiry(authorizations: Iterable[Authorization], now: datetime) -> datetime | None:
    """When the clock alone changes what is covered next."""
    return min((a.expiration for a in authorizations if a.expiration is not None and a.expiration > now), default=None)


def types_of_interest(authorizations: Iterable[Authorization]) -> set[str]:
    """Secret types that some KeyAuthorization treats differently from the others."""
    types = set(BY_NAME_ONLY_TYPES)
    for a in authorizations:
        types |= a.secret_types | a.exclude_types
    return types


@dataclass(slots=True)
class Report:
    """What was found for one KeyAuthorization."""

    namespaces: int = 0
    """Those that it selects and that carry the label."""
    unlabelled: list[str] = field(default_factory=list)
    """Those that do not, so that nothing is sealed there."""
    sealed: int = 0
    unsealed: list[str] = field(default_factory=list)
    """NAMESPACE/NAME of what it covers and is not sealed."""
    foreign: list[str] = field(default_factory=list)
    """NAMESPACE/NAME of what it covers and is sealed under another key than its own."""
    conflicts: list[str] = field(default_factory=list)
    """NAMESPACE/NAME of what others cover for another key."""
    rivals: set[str] = field(default_factory=set)
    """Names of those others."""


@dataclass(slots=True)
class Survey:
    """Collects the reports, one namespace and one Secret at a time."""

    policy: Policy
    now: datetime
    reports: dict[str, Report] = field(default_factory=dict)
    """By name of the KeyAuthorization."""

    def namespace(self, name: str, labels: Labels) -> None:
        """A namespace, labelled or not."""
        for authorization in self.policy.selecting(name, labels, self.now):
            label = self.policy.sealing(name)
            if label is Sealing.ENABLED or (label is not None and SEAL not in authorization.operations):
                self._report(authorization).namespaces += 1
            else:
                self._report(authorization).unlabelled.append(name)

    def secret(self, namespace: str, secret: SecretMeta, envelope: Envelope | None) -> None:
        """A Secret of such a namespace."""
        covering = self.policy.covering(namespace, secret, self.now)
        full_name = f"{namespace}/{secret.name}"
        if envelope is not None:
            for authorization in covering:
                report = self._report(authorization)
                if authorization.key_id == envelope.key_id:
                    report.sealed += 1
                else:
                    report.foreign.append(full_name)
            return
        sealing = [a for a in covering if SEAL in a.operations]
        chosen = secret.labels.get(LABEL_ROOT_KEY)
        keys = {a.root_key_name for a in sealing}
        undecided = len(keys) > 1 and chosen not in keys
        for authorization in sealing:
            if chosen in keys and chosen != authorization.root_key_name:
                continue
            report = self._report(authorization)
            report.unsealed.append(full_name)
            if undecided:
                report.conflicts.append(full_name)
                report.rivals |= {a.name for a in sealing if a.root_key_name != authorization.root_key_name}

    def of(self, authorization: Authorization) -> Report:
        """The report; an empty one where nothing was found."""
        return self.reports.get(authorization.name, Report())

    def _report(self, authorization: Authorization) -> Report:
        return self.reports.setdefault(authorization.name, Report())


def conditions(policy: Policy, authorization: Authorization, report: Report, now: datetime) -> list[Condition]:
    """Ready and Sealing of one KeyAuthorization."""
    return [_ready(policy, authorization, report, now), _sealing(report)]


def _ready(policy: Policy, authorization: Authorization, report: Report, now: datetime) -> Condition:
    def ready(status: Status, reason: Reason, message: str) -> Condition:
        return Condition(names.Condition.READY, status, reason, message)

    name = authorization.root_key_name
    key = policy.root_keys.get(name)
    if not authorization.in_force(now):
        return ready(
            Status.FALSE, Reason.EXPIRED, "spec.expirationTime has passed: it grants nothing, and nothing was destroyed"
        )
    if key is None or key.key_id is None:
        return ready(
            Status.FALSE,
            Reason.ROOT_KEY_NOT_FOUND,
            f"the RootKey {name} does not exist: new Secrets in the selected namespaces are refused until it does",
        )
    if authorization.key_id != key.key_id:
        return ready(
            Status.FALSE,
            Reason.ROOT_KEY_NOT_FOUND,
            f"it was given for an earlier key named {name} and grants nothing: delete it, and create it again for the "
            "RootKey of today",
        )
    state = key.state(now)
    if not allows(state, Action.SEAL if SEAL in authorization.operations else Action.UNSEAL):
        return ready(Status.FALSE, Reason.ROOT_KEY_NOT_ACTIVE, f"the RootKey {name} is {state}")
    if report.conflicts:
        return ready(
            Status.FALSE,
            Reason.CONFLICT,
            f"{_some(sorted(report.rivals))} means the same Secrets for another RootKey: {_some(report.conflicts)}; "
            f"choose one with the label {LABEL_ROOT_KEY} on each Secret",
        )
    if report.unlabelled:
        return ready(
            Status.FALSE,
            Reason.SEALING,
            f"namespaces that do not carry the label {LABEL_SEALING}={Sealing.ENABLED} yet, so that nothing is sealed "
            f"there: {_some(sorted(report.unlabelled))}",
        )
    if report.unsealed:
        return ready(Status.FALSE, Reason.SEALING, f"not sealed yet: {_some(report.unsealed)}")
    if SEAL not in authorization.operations:
        return ready(
            Status.TRUE, Reason.AUTHORIZED, f"what is sealed under the RootKey {name} may be unsealed, not sealed anew"
        )
    if report.foreign:
        return ready(
            Status.TRUE,
            Reason.AUTHORIZED,
            f"every Secret that it selects is sealed, but {len(report.foreign)} of them under another key than that of "
            f"the RootKey {name}: {_some(report.foreign)}",
        )
    message = f"every Secret that it selects is sealed under the RootKey {name}"
    if absent := sorted(authorization.namespace_names - policy.namespaces.keys()):
        message += f"; namespaces that it names and that do not exist: {_some(absent)}"
    if never := sorted(n for n in authorization.namespace_names if policy.never_seals(n)):
        message += f"; namespaces that it names and where nothing is ever sealed: {_some(never)}"
    return ready(Status.TRUE, Reason.AUTHORIZED, message)


def _sealing(report: Report) -> Condition:
    if not report.unsealed:
        return Condition(names.Condition.SEALING, Status.FALSE, Reason.ALL_SEALED, "nothing is left unsealed")
    return Condition(
        names.Condition.SEALING,
        Status.TRUE,
        Reason.SEALING,
        f"Secrets that existed before and are not sealed: {len(report.unsealed)} ({_some(report.unsealed)}). Seal each "
        # Not by applying it again: kubectl sends nothing where nothing changed.
        "with `kubectl patch secret NAME -n NAMESPACE -p '{}'`; delete an immutable one and create it again. A sweep "
        "that does it for you comes in a later release",
    )


def _some(items: list[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")
