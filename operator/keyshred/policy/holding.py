"""Which Secrets of a namespace are held: left unsealed while pods older than its label read them natively."""

from collections.abc import Iterable, Mapping
from typing import Final

from keyshred.names import HELD_ALL
from keyshred.policy.found import Found, Pod

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


def still_held(before: frozenset[str], pods: Mapping[str, Pod], secrets: Mapping[str, Found]) -> frozenset[str]:
    """What stays held, now that the namespace has settled. `pods` come from a list that began after that.

    Names only leave. They leave with the last pod that reads them; what is sealed already is never held, and names of
    Secrets that are not there are: a pod may be waiting for one. Too many names: all stays held.
    """
    names = read_natively(pods, secrets)
    if HELD_ALL not in before:
        return before & names
    return before if too_many(names) else names


def read_natively(pods: Mapping[str, Pod], secrets: Mapping[str, Found]) -> frozenset[str]:
    """Names that pods refer to, less those that are sealed."""
    names = frozenset[str]().union(*(p.refers for p in pods.values()))
    return frozenset(n for n in names if n not in secrets or secrets[n].sealed is None)


def too_many(names: frozenset[str]) -> bool:
    """Whether the annotation cannot hold them."""
    return len(names) > MAX_HELD or len(write(names) or "") > MAX_TEXT
