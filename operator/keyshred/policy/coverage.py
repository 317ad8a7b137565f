"""What KeyAuthorizations cover: the label of each namespace, and of each Secret what is to be done with it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from keyshred.names import BY_NAME_ONLY_TYPES, HELD_ALL, LABEL_ROOT_KEY, NEVER_SEALED_TYPES, Mode, Sealing
from keyshred.policy import holding
from keyshred.policy.authorizations import Policy
from keyshred.policy.found import Found, Holder, When
from keyshred.policy.resources import Authorization, SecretMeta
from keyshred.policy.secrets import MAX_KEYS
from keyshred.policy.selectors import Labels
from keyshred.policy.states import Action, allows

IMMUTABLE: Final = (
    "it was immutable before it could be sealed, and nobody can change such a Secret: keep its manifest or its values, "
    "delete it, and create it again"
)
_GOING: Final = (
    "it is being deleted, so nothing in it is changed any more: it goes when the last of its finalizers is taken off"
)
_TOO_MANY_KEYS: Final = f"it has more than {MAX_KEYS} keys, the most that can be sealed: split it"
_NAMED_WORKLOADS: Final = 3
_REFUSED: Final = "a pod made anew would be refused"


def wanted_label(policy: Policy, namespace: str, labels: Labels, now: datetime) -> Sealing | None:
    """What the KeyAuthorizations in force want the namespace's label to be; None: they do not select it.

    Only mode Enforce does: Preview changes nothing, and Release wants a label no longer than something is sealed.
    """
    selecting = [a for a in selected_by(policy, namespace, labels, now) if a.mode is Mode.ENFORCE]
    if not selecting:
        return None
    return Sealing.ENABLED if any(a.seals for a in selecting) else Sealing.RETAINED


def selected_by(policy: Policy, namespace: str, labels: Labels, now: datetime) -> list[Authorization]:
    """KeyAuthorizations in force of every mode that select the namespace."""
    if policy.never_seals(namespace):
        return []
    return [a for a in policy.authorizations if a.in_force(now) and a.selects_namespace(namespace, labels)]


def next_expiry(authorizations: Iterable[Authorization], now: datetime) -> datetime | None:
    """When the clock alone changes what is covered next."""
    return min((a.expiration for a in authorizations if a.expiration is not None and a.expiration > now), default=None)


class Chore(StrEnum):
    """What is to be done with a Secret."""

    SEAL = "Seal"
    RELEASE = "Release"
    PROBE = "Probe"
    """To find out whether it is immutable."""


class Task(NamedTuple):
    """One of them."""

    chore: Chore
    namespace: str
    name: str
    version: str
    """The resourceVersion that it was decided on."""
    root_key: str
    """Name of the RootKey that seals, or opens."""


class Refusal(NamedTuple):
    """Why the task could not be done."""

    version: str
    """Of the Secret; another one may fare better."""
    reason: str
    """Empty: it can be, as a probe has shown."""


Refusals = Mapping[tuple[str, str], Refusal]
"""By namespace and name of the Secret."""


class Named(NamedTuple):
    """A Secret, and why it is as it is."""

    namespace: str
    name: str
    reason: str


@dataclass(slots=True)
class Report:
    """What was found for one KeyAuthorization. Secrets are NAMESPACE/NAME unless they have a reason."""

    namespaces: int = 0
    """Those that it selects and that carry the label; all that it selects in Preview and Release."""
    unlabelled: list[str] = field(default_factory=list)
    """Those that do not, so that nothing is sealed there."""
    unknown: list[str] = field(default_factory=list)
    """Those where not all that counts was listed yet."""
    settling: list[str] = field(default_factory=list)
    """Those where everything that is not sealed is held, until all know the label."""
    crowded: list[str] = field(default_factory=list)
    """Those where it stays so, since more Secrets are needed as they are than can be named."""
    sealed: int = 0
    unsealed: list[str] = field(default_factory=list)
    """What it covers and is to be sealed."""
    waiting: int = 0
    """What it covers in those two."""
    held: list[Named] = field(default_factory=list)
    broken: list[Named] = field(default_factory=list)
    """In Preview: what it does not cover, or is not there, and pods would be refused for when they are made anew."""
    unsealable: list[Named] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """What it covers and is sealed under another key than its own."""
    conflicts: list[str] = field(default_factory=list)
    """What others cover for another key."""
    rivals: set[str] = field(default_factory=set)
    """Names of those others; in Release, of those that keep sealed what it would release."""
    kept: list[str] = field(default_factory=list)
    """In Release: what others seal, so that it stays sealed."""

    @property
    def complete(self) -> bool:
        """Nothing that is to be sealed is left unsealed."""
        return not (self.settling or self.crowded or self.unsealed or self.held or self.unsealable)


class Place(NamedTuple):
    """What is known of a namespace beside its labels."""

    secrets: Mapping[str, Found] | None
    """None: not listed yet."""
    holders: Mapping[str, Holder] | None


@dataclass(slots=True)
class Survey:
    """Collects the reports and the tasks, one namespace and one Secret at a time."""

    policy: Policy
    now: datetime
    refusals: Refusals = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    """By name of the KeyAuthorization."""
    tasks: list[Task] = field(default_factory=list)

    def enter(self, name: str, labels: Labels, place: Place) -> "Site":
        """A namespace, labelled or not."""
        label = self.policy.sealing(name)
        selecting = selected_by(self.policy, name, labels, self.now)
        site = Site(self, name, label, selecting, _readers(place.holders or {}), _broken(place))
        for authorization in selecting:
            report = self.report(authorization)
            if authorization.mode is Mode.ENFORCE and not _is_in_effect(label, authorization):
                report.unlabelled.append(name)
                continue
            report.namespaces += 1
            preview = authorization.mode is Mode.PREVIEW
            if place.secrets is None or (preview and place.holders is None):
                report.unknown.append(name)
            if preview and place.secrets is not None:
                for secret in site.broken.keys() - place.secrets.keys():
                    site.tell_broken(secret, authorization)
            if authorization.seals and HELD_ALL in self.policy.held.get(name, ()):
                crowded = holding.too_many(holding.needed(place.holders or {}, place.secrets or {}))
                (report.crowded if crowded else report.settling).append(name)
        return site

    def report(self, authorization: Authorization) -> Report:
        """The report; an empty one where nothing was found."""
        return self.reports.setdefault(authorization.name, Report())


@dataclass(frozen=True, slots=True)
class Site:
    """One namespace of a survey."""

    survey: Survey
    name: str
    label: Sealing | None
    selecting: list[Authorization]
    readers: Mapping[str, "_Readers"]
    """By name of a Secret."""
    broken: Mapping[str, str]
    """By name of a Secret: why pods that are made anew would be refused for it, sealed or not."""

    def secret(self, name: str, found: Found) -> None:
        """A Secret of that namespace."""
        meta = SecretMeta(name, found.type, found.labels)
        covering = [
            a
            for a in self.selecting
            if found.type not in NEVER_SEALED_TYPES
            and a.selects_type(found.type, BY_NAME_ONLY_TYPES)
            and a.selects_labels(meta)
        ]
        to_seal = found.sealed is None and found.keys > 0
        if found.sealed is not None:
            self._sealed(name, found, covering)
        elif to_seal:
            self._unsealed(name, found, [a for a in covering if a.seals])
        for authorization in self.selecting:
            if authorization.mode is not Mode.PREVIEW:
                continue
            if to_seal and authorization in covering:
                self._previewed(name, found, authorization)
            elif name in self.broken:
                self.tell_broken(name, authorization)

    def tell_broken(self, name: str, authorization: Authorization) -> None:
        """What is not sealed, and pods would be refused for all the same."""
        if name not in authorization.exclude_names:
            self.survey.report(authorization).broken.append(Named(self.name, name, self.broken[name]))

    def _sealed(self, name: str, found: Found, covering: list[Authorization]) -> None:
        full_name = f"{self.name}/{name}"
        keepers = {a.name for a in covering if a.seals}
        for authorization in covering:
            report = self.survey.report(authorization)
            if found.sealed is None or authorization.key_id != found.sealed.key_id:
                report.foreign.append(full_name)
            elif authorization.mode is not Mode.RELEASE:
                report.sealed += 1
            elif keepers:
                report.kept.append(full_name)
                report.rivals |= keepers
            else:
                report.sealed += 1
                if refusal := self._refusal(name, found):
                    report.unsealable.append(Named(self.name, name, refusal.reason))
                else:
                    self._ask(Chore.RELEASE, name, found, authorization)

    def _unsealed(self, name: str, found: Found, sealing: list[Authorization]) -> None:
        full_name, chosen = f"{self.name}/{name}", found.labels.get(LABEL_ROOT_KEY)
        keys = {a.root_key_name for a in sealing}
        meant = [a for a in sealing if chosen not in keys or chosen == a.root_key_name]
        undecided = len(keys) > 1 and chosen not in keys
        refusal = self._refusal(name, found)
        held = self.survey.policy.holds(self.name, name)
        for authorization in meant:
            report = self.survey.report(authorization)
            if undecided:
                report.conflicts.append(full_name)
                report.rivals |= {a.name for a in sealing if a.root_key_name != authorization.root_key_name}
            if held and HELD_ALL in self.survey.policy.held[self.name]:
                report.waiting += 1
            elif held:
                report.held.append(Named(self.name, name, self.readers.get(name, _Readers()).text()))
            elif refusal:
                report.unsealable.append(Named(self.name, name, refusal.reason))
            else:
                report.unsealed.append(full_name)
        if meant and self.label is Sealing.ENABLED and not (undecided or held or refusal):
            self._ask(Chore.SEAL, name, found, meant[0])

    def _previewed(self, name: str, found: Found, authorization: Authorization) -> None:
        report = self.survey.report(authorization)
        known = self.survey.refusals.get((self.name, name))
        refusal = self._refusal(name, found)
        if refusal or found.keys > MAX_KEYS:
            report.unsealable.append(Named(self.name, name, refusal.reason if refusal else _TOO_MANY_KEYS))
            if name in self.broken:
                self.tell_broken(name, authorization)
        elif name in self.readers:
            report.held.append(Named(self.name, name, self.readers[name].text()))
        else:
            report.unsealed.append(f"{self.name}/{name}")
        if found.perhaps_immutable and (known is None or known.version != found.version):
            self.survey.tasks.append(Task(Chore.PROBE, self.name, name, found.version, authorization.root_key_name))

    def _refusal(self, name: str, found: Found) -> Refusal | None:
        if found.going:
            return Refusal(found.version, _GOING)
        refusal = self.survey.refusals.get((self.name, name))
        return refusal if refusal and refusal.reason and refusal.version == found.version else None

    def _ask(self, chore: Chore, name: str, found: Found, authorization: Authorization) -> None:
        key = self.survey.policy.root_keys.get(authorization.root_key_name)
        action = Action.SEAL if chore is Chore.SEAL else Action.UNSEAL
        if key and key.key_id == authorization.key_id and allows(key.state(self.survey.now), action):
            self.survey.tasks.append(Task(chore, self.name, name, found.version, key.name))


def _is_in_effect(label: Sealing | None, authorization: Authorization) -> bool:
    return label is Sealing.ENABLED or (label is not None and not authorization.seals)


@dataclass(slots=True)
class _Readers:
    """Who needs a Secret as it is."""

    workloads: Counter[str] = field(default_factory=Counter)
    """Whose pods read it natively, and how many pods each has."""
    others: dict[str, str] = field(default_factory=dict)
    """Who else, and why."""

    def text(self) -> str:
        """For the status: what to do."""
        to_restart = Counter({who: count for who, count in self.workloads.items() if who not in self.others})
        parts = ([_to_restart(to_restart)] if to_restart else []) + _some_of(self.others)
        return "; ".join(parts) or "what needed it as it is has gone; it is let go within seconds"


def _readers(holders: Mapping[str, Holder]) -> dict[str, _Readers]:
    readers: dict[str, _Readers] = {}
    for holder in holders.values():
        hindered = {h.secret: f"{_REFUSED}: {h.words}" for h in holder.hindrances if h.when is not When.ABSENT}
        for name in holder.refers:
            found = readers.setdefault(name, _Readers())
            if why := holder.why or hindered.get(name):
                found.others[holder.who] = why
            else:
                found.workloads[holder.who] += 1
    return readers


def _broken(place: Place) -> dict[str, str]:
    """By name of a Secret: why pods that are made anew would be refused for it, sealed or not."""
    found: dict[str, dict[str, str]] = {}
    for holder in (place.holders or {}).values():
        for secret, when, words in holder.hindrances:
            if when is When.ALWAYS or (when is When.ABSENT and secret not in (place.secrets or {})):
                found.setdefault(secret, {})[holder.who] = f"{_REFUSED}: {words}"
    return {secret: "; ".join(_some_of(others)) for secret, others in found.items()}


def _some_of(others: Mapping[str, str]) -> list[str]:
    more = len(others) - _NAMED_WORKLOADS
    named = [f"{who}: {why}" for who, why in sorted(others.items())[:_NAMED_WORKLOADS]]
    return [*named, f"and {more} more of that kind"] if more > 0 else named


def _to_restart(workloads: Counter[str]) -> str:
    named = ", ".join(
        f"{workload} ({count} pod{'s' if count > 1 else ''})"
        for workload, count in sorted(workloads.items())[:_NAMED_WORKLOADS]
    )
    more = f" and {len(workloads) - _NAMED_WORKLOADS} more" if len(workloads) > _NAMED_WORKLOADS else ""
    return f"read natively by {named}{more}: restart them, and it is sealed"
