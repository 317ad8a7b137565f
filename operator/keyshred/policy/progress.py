"""What the status of a KeyAuthorization says of a survey: conditions, and lists of what is held or cannot be sealed."""

from datetime import datetime
from typing import Any, Final

from keyshred import names
from keyshred.names import LABEL_ROOT_KEY, LABEL_SEALING, Mode, Reason, Sealing
from keyshred.policy.authorizations import Policy
from keyshred.policy.conditions import Condition, Status
from keyshred.policy.coverage import Named, Report
from keyshred.policy.holding import MAX_HELD, MAX_TEXT
from keyshred.policy.resources import Authorization
from keyshred.policy.states import Action, allows

_NAMED: Final = 5
"""Names in a message; the rest is a number."""
_LISTED: Final = 2000
_LISTED_BYTES: Final = 256 * 1024
"""Of each list in a status: an object has 1.5 MiB, and both lists are in it."""
_REASON: Final = 512


def conditions(
    policy: Policy, authorization: Authorization, report: Report, now: datetime, trouble: str
) -> list[Condition]:
    """Ready and Sealing of one KeyAuthorization; `trouble` is why the sweep makes no headway, if it does not."""
    return [_ready(policy, authorization, report, now, trouble), _sealing(authorization, report, trouble)]


def status(report: Report) -> dict[str, Any]:
    """The rest of its status."""
    return {
        "namespaces": report.namespaces,
        "secrets": report.sealed,
        "held": _listed(report.held + report.broken),
        "unsealable": _listed(report.unsealable),
    }


def _ready(policy: Policy, authorization: Authorization, report: Report, now: datetime, trouble: str) -> Condition:
    name = authorization.root_key_name
    if problem := _cannot_begin(policy, authorization, now):
        return problem
    if report.unknown:
        return _condition(
            Status.FALSE, Reason.SEALING, f"these namespaces are still being looked through: {_some(report.unknown)}"
        )
    match authorization.mode:
        case Mode.PREVIEW:
            return _condition(Status.FALSE, Reason.PREVIEW, _preview(report))
        case Mode.RELEASE:
            return _release(report, trouble)
    if report.conflicts:
        return _condition(
            Status.FALSE,
            Reason.CONFLICT,
            f"{_some(sorted(report.rivals))} means the same Secrets for another RootKey: {_some(report.conflicts)}; "
            f"choose one with the label {LABEL_ROOT_KEY} on each Secret",
        )
    if report.unlabelled:
        return _condition(
            Status.FALSE,
            Reason.SEALING,
            f"namespaces that do not carry the label {LABEL_SEALING}={Sealing.ENABLED} yet, so that nothing is sealed "
            f"there: {_some(sorted(report.unlabelled))}",
        )
    if not report.complete:
        return _condition(Status.FALSE, Reason.SEALING, _left(report, trouble))
    if not authorization.seals:
        return _condition(
            Status.TRUE, Reason.AUTHORIZED, f"what is sealed under the RootKey {name} may be unsealed, not sealed anew"
        )
    if report.foreign:
        return _condition(
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
    return _condition(Status.TRUE, Reason.AUTHORIZED, message)


def _cannot_begin(policy: Policy, authorization: Authorization, now: datetime) -> Condition | None:
    name = authorization.root_key_name
    if not authorization.in_force(now):
        return _condition(
            Status.FALSE, Reason.EXPIRED, "spec.expirationTime has passed: it grants nothing, and nothing was destroyed"
        )
    key = policy.root_keys.get(name)
    if key is None or key.key_id is None:
        consequence = (
            "" if not authorization.seals else (": new Secrets in the selected namespaces are refused until it does")
        )
        return _condition(Status.FALSE, Reason.ROOT_KEY_NOT_FOUND, f"the RootKey {name} does not exist{consequence}")
    if authorization.key_id != key.key_id:
        return _condition(
            Status.FALSE,
            Reason.ROOT_KEY_NOT_FOUND,
            f"it was given for an earlier key named {name} and grants nothing: delete it, and create it again for the "
            "RootKey of today",
        )
    state = key.state(now)
    if authorization.mode is Mode.PREVIEW or allows(state, Action.SEAL if authorization.seals else Action.UNSEAL):
        return None
    consequence = ": nothing can be turned back into plaintext" if authorization.mode is Mode.RELEASE else ""
    return _condition(Status.FALSE, Reason.ROOT_KEY_NOT_ACTIVE, f"the RootKey {name} is {state}{consequence}")


def _left(report: Report, trouble: str) -> str:
    """What is not sealed yet, in numbers and by name."""
    rest = len(report.unsealed) + report.waiting + len(report.held) + len(report.unsealable)
    parts = [f"{report.sealed} of {report.sealed + rest} Secrets are sealed"]
    if report.settling:
        parts.append(f"sealing begins when every API server knows the label of {_some(report.settling)}")
    if report.crowded:
        parts.append(
            f"nothing more is sealed in {_some(report.crowded)} while more Secrets are needed there as they are than "
            f"can be held ({MAX_HELD}, or {MAX_TEXT // 1024} KiB of names): restart some of the pods that read them"
        )
    if report.unsealed:
        parts.append(f"{len(report.unsealed)} are being sealed: {_some(report.unsealed)}")
    if report.held:
        parts.append(f"{len(report.held)} are held for what needs them as they are: see status.held")
    if report.unsealable:
        parts.append(f"{len(report.unsealable)} cannot be sealed as they are: see status.unsealable")
    return "; ".join(parts) + (f"; last problem: {trouble}" if trouble and report.unsealed else "")


def _preview(report: Report) -> str:
    return (
        f"nothing is changed. Mode Enforce would seal {len(report.unsealed)} Secrets in {report.namespaces} namespaces"
        + (f" ({_some(report.unsealed)})" if report.unsealed else "")
        + f", hold {len(report.held)} until what needs them as they are is restarted or changed (status.held), and "
        f"could not seal {len(report.unsealable)} (status.unsealable); sealed already: "
        f"{report.sealed + len(report.foreign)}"
        + (f"; pods would be refused for {len(report.broken)} others (status.held)" if report.broken else "")
    )


def _release(report: Report, trouble: str) -> Condition:
    kept = (
        f"; {len(report.kept)} stay sealed, since {_some(sorted(report.rivals))} seals them: {_some(report.kept)}"
        if report.kept
        else ""
    )
    if report.foreign:
        kept += f"; {len(report.foreign)} are sealed under other keys and are left alone: {_some(report.foreign)}"
    if not report.sealed:
        return _condition(Status.TRUE, Reason.RELEASED, f"nothing that it releases is sealed any more{kept}")
    unable = f"; {len(report.unsealable)} cannot be: see status.unsealable" if report.unsealable else ""
    last = f"; last problem: {trouble}" if trouble else ""
    return _condition(
        Status.FALSE, Reason.RELEASING, f"{report.sealed} Secrets are to become plaintext again{unable}{kept}{last}"
    )


def _sealing(authorization: Authorization, report: Report, trouble: str) -> Condition:
    if authorization.mode is not Mode.ENFORCE:
        return Condition(
            names.Condition.SEALING,
            Status.FALSE,
            Reason.PREVIEW if authorization.mode is Mode.PREVIEW else Reason.RELEASING,
            f"mode {authorization.mode} seals nothing",
        )
    if report.complete:
        return Condition(names.Condition.SEALING, Status.FALSE, Reason.ALL_SEALED, "nothing is left unsealed")
    return Condition(names.Condition.SEALING, Status.TRUE, Reason.SEALING, _left(report, trouble))


def _condition(status: Status, reason: Reason, message: str) -> Condition:
    return Condition(names.Condition.READY, status, reason, message)


def _listed(found: list[Named]) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = []
    room = _LISTED_BYTES
    for item in found[:_LISTED]:
        entry = item._asdict() | {"reason": item.reason[:_REASON]}
        room -= sum(map(len, entry.values()))
        if room < 0:
            break
        listed.append(entry)
    return listed


def _some(items: list[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")
