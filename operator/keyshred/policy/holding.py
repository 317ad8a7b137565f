"""Which Secrets of a namespace are held: left unsealed while something needs them as they are."""

from collections.abc import Iterable, Mapping
from typing import Final

from keyshred.names import HELD_ALL
from keyshred.policy.found import Found, Holder

MAX_HELD: Final = 2000
"""Names that the annotation holds at most."""
MAX_TEXT: Final = 128 * 1024
"""Its bytes at most: all annotations of an object share 256 KiB."""


def read(text: str | None) -> frozenset[str]:
    """The names in the annotation; HELD_ALL alone stands for all of them."""
    return frozenset(filter(None, (text or "").split(",")))


def write(names: Iterable[str]) -> str | None:
    """The annotation; None: there is none, since nothing is held."""
    return ",".join(sorted(names)) or None


def still_held(before: frozenset[str], holders: Mapping[str, Holder], secrets: Mapping[str, Found]) -> frozenset[str]:
    """What stays held, now that the namespace has settled. `holders` come from lists that began after that.

    Names only leave. They leave with the last that needs them; what is sealed already is never held, and names of
    Secrets that are not there are: a pod may be waiting for one. Too many names: all stays held.
    """
    names = needed(holders, secrets)
    if HELD_ALL not in before:
        return before & names
    return before if too_many(names) else names


def needed(holders: Mapping[str, Holder], secrets: Mapping[str, Found]) -> frozenset[str]:
    """Names of Secrets that are needed as they are, less those that are sealed."""
    names = frozenset[str]().union(*(h.refers for h in holders.values()))
    return frozenset(n for n in names if n not in secrets or secrets[n].sealed is None)


def too_many(names: frozenset[str]) -> bool:
    """Whether the annotation cannot hold them."""
    return len(names) > MAX_HELD or len(write(names) or "") > MAX_TEXT
