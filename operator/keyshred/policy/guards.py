"""What stands between a deletion and the loss of the key: spec.destruction, and what counts of it when it is weakened.

The KeyRecord remembers the guards (`status.guards`), across RootKey objects of the same key: whoever lowers a grace
period, or restores the key without one, still waits for the old one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from keyshred.errors import KeyProtected, Malformed, PolicyNotFresh, Refused
from keyshred.policy import durations
from keyshred.times import stamp

Json = dict[str, Any]

_NONE: Final[Json] = {"gracePeriod": "0s", "protected": False}
_COUNT_MAX_AGE: Final = timedelta(minutes=5)
"""Older counts of dependents decide nothing. The controller, which counts anew before it begins, has the last word."""


@dataclass(frozen=True, slots=True)
class Floors:
    """What every RootKey of this installation has to ask for at least."""

    grace_period: timedelta = timedelta(0)
    protected: bool = False

    def check(self, name: str, wanted: Mapping[str, Any]) -> None:
        """Returns if the guards (as from `asked`) reach the floors. Raises Refused."""
        below = []
        try:
            asked = durations.parse(wanted["gracePeriod"])
        except Malformed as error:
            raise Malformed(f"spec.destruction.gracePeriod: {error}") from None
        if asked < self.grace_period:
            below.append(f"gracePeriod {durations.text(self.grace_period)} or more (it is {wanted['gracePeriod']})")
        if self.protected and not wanted["protected"]:
            below.append("protected: true")
        if below:
            raise Refused(
                f"RootKey {name}: this installation asks for {' and '.join(below)} in spec.destruction "
                "(chart value destructionFloors): set that first"
            )


def asked(spec: Mapping[str, Any]) -> Json:
    """The guards that a RootKey's spec asks for."""
    given = spec.get("destruction") or {}
    return {"gracePeriod": given.get("gracePeriod") or "0s", "protected": bool(given.get("protected"))}


def observe(recorded: Mapping[str, Any] | None, wanted: Mapping[str, Any], secrets: int | None, now: datetime) -> Json:
    """`status.guards` from now on. `secrets`: dependents of the key, None where nobody has counted them.

    A stricter guard counts at once. A lower gracePeriod counts when the old one has passed; `protected` stays while
    dependents may exist, whatever a new RootKey of the key says.
    """
    old = recorded or _NONE
    protected = wanted["protected"] or (old["protected"] and secrets != 0)
    result: Json = {"gracePeriod": wanted["gracePeriod"], "protected": protected}
    stricter, until = "0s", now
    if "stricterUntil" in old and now < datetime.fromisoformat(old["stricterUntil"]):
        stricter, until = old["stricterGracePeriod"], datetime.fromisoformat(old["stricterUntil"])
    before = durations.parse(old["gracePeriod"])
    if before > durations.parse(wanted["gracePeriod"]):
        # One pair for all lowerings that overlap: the longest of the periods, until the last of the moments.
        stricter, until = max(stricter, old["gracePeriod"], key=durations.parse), max(until, now + before)
    if durations.parse(stricter) > durations.parse(wanted["gracePeriod"]):
        result |= {"stricterGracePeriod": stricter, "stricterUntil": stamp(until)}
    return result


def changed(recorded: Mapping[str, Any] | None, guards: Mapping[str, Any]) -> bool:
    """Whether the KeyRecord has to be told. One that never had a guard need not say so."""
    return guards != (recorded or _NONE)


def describe(guards: Mapping[str, Any]) -> str:
    """For the ledger."""
    text = f"gracePeriod {guards['gracePeriod']}, protected {str(guards['protected']).lower()}"
    if "stricterUntil" in guards:
        text += f"; {guards['stricterGracePeriod']} still counts until {guards['stricterUntil']}"
    return text


def grace_period(guards: Mapping[str, Any], at: datetime) -> timedelta:
    """How long a key whose RootKey was deleted `at` that moment can be restored."""
    if "stricterUntil" in guards and at < datetime.fromisoformat(guards["stricterUntil"]):
        return durations.parse(guards["stricterGracePeriod"])
    return durations.parse(guards["gracePeriod"])


def check_weakening(
    name: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    recorded: Mapping[str, Any] | None,
    dependents: Mapping[str, Any],
    now: datetime,
) -> None:
    """Returns if a RootKey's guards may change from `old` to `new` (both as from `asked`).

    `recorded`: the KeyRecord's; `dependents`: the RootKey's status. Raises KeyProtected, or PolicyNotFresh where the
    controller has to look first.
    """
    if old["protected"] and not new["protected"]:
        check_unused(name, dependents, now)
    lowered = durations.parse(new["gracePeriod"]) < durations.parse(old["gracePeriod"])
    # Else a period that was raised and lowered while the controller was away would never have counted.
    if lowered and (recorded or _NONE)["gracePeriod"] != old["gracePeriod"]:
        raise PolicyNotFresh(
            f"RootKey {name}: keyshred's controller has not taken note of the gracePeriod {old['gracePeriod']} yet, so "
            "it cannot be lowered: try again"
        )


def check_unused(name: str, dependents: Mapping[str, Any], now: datetime) -> None:
    """Returns if no Secret depends on the protected RootKey, by a recent count of the controller's.

    Raises KeyProtected, or PolicyNotFresh for a count that is missing or old.
    """
    observed_at = dependents.get("observedAt")
    if observed_at is None or now - datetime.fromisoformat(observed_at) > _COUNT_MAX_AGE:
        raise PolicyNotFresh(
            f"RootKey {name} is protected, and its dependents were "
            + (f"last counted at {observed_at}" if observed_at else "not counted yet")
            + ": try again once keyshred's controller has counted them"
        )
    check_count(name, dependents.get("secrets", 0))


def check_count(name: str, secrets: int) -> None:
    """Raises KeyProtected where Secrets depend on the protected RootKey."""
    if secrets:
        raise KeyProtected(
            f"RootKey {name} is protected (spec.destruction.protected) and {secrets} sealed Secrets depend on it: "
            "delete those first (label keyshred.dev/key-id)"
        )
