"""Secrets, and what needs them as they are, as the controller keeps them: a small tuple for each."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from sys import intern
from typing import Any, Final, NamedTuple
from uuid import UUID

from keyshred.envelope.format import Born, Envelope, parse
from keyshred.errors import MalformedEnvelope
from keyshred.names import ANNOTATION_ENVELOPE
from keyshred.policy.selectors import Labels


class Sealed(NamedTuple):
    """What counts of an envelope."""

    key_id: UUID
    key_version: int
    born: Born
    born_at: datetime


class Found(NamedTuple):
    """One Secret."""

    type: str
    labels: Labels
    keys: int
    """Number of its values."""
    sealed: Sealed | None
    """None: it carries no envelope that can be read."""
    going: bool
    """It is being deleted."""
    perhaps_immutable: bool
    """Somebody has set the field `immutable`, to whatever: metadata does not say more."""
    version: str
    """Its resourceVersion."""


class When(StrEnum):
    """Of what Secrets a hindrance speaks."""

    ALWAYS = "Always"
    SEALED = "Sealed"
    ABSENT = "Absent"


class Hindrance(NamedTuple):
    """Why a new pod would be refused for a Secret that it names."""

    secret: str
    when: When
    words: str
    """The planner's own."""


class Holder(NamedTuple):
    """A pod, or something else that needs Secrets as they are (policy/holders.py)."""

    refers: frozenset[str]
    """Names of those Secrets; none of a pod that has ended."""
    who: str
    """What to restart, or what else it is."""
    why: str = ""
    """Why it needs all of them; empty for pods and workloads."""
    hindrances: tuple[Hindrance, ...] = ()


_CELL_TYPE: Final = 1
_CELL_KEYS: Final = 2
"""Columns of a Secret in a Table (Kubernetes, pkg/printers/internalversion/printers.go, printSecret)."""


def read_secret(row: dict[str, Any]) -> Found:
    """From a row of a Table with the object's metadata: it has the type, which PartialObjectMetadata has not."""
    meta, cells = row["object"]["metadata"], row["cells"]
    labels = meta.get("labels") or {}
    return Found(
        type=intern(cells[_CELL_TYPE]),
        # Secrets of one chart have the same labels: one mapping for all of them.
        labels=_shared(tuple(sorted((intern(k), intern(v)) for k, v in labels.items()))),
        keys=cells[_CELL_KEYS],
        sealed=sealed_of(meta),
        going="deletionTimestamp" in meta,
        perhaps_immutable=any("f:immutable" in (m.get("fieldsV1") or {}) for m in meta.get("managedFields") or ()),
        version=meta["resourceVersion"],
    )


def envelope_of(meta: Mapping[str, Any]) -> Envelope | None:
    """The envelope of a Secret, from its metadata; None: not sealed, or copied in with another Secret's envelope."""
    text = (meta.get("annotations") or {}).get(ANNOTATION_ENVELOPE)
    try:
        envelope = parse(text) if text else None
    except MalformedEnvelope:
        return None
    own = envelope is not None and (envelope.namespace, envelope.name) == (meta["namespace"], meta["name"])
    return envelope if own else None


def sealed_of(meta: Mapping[str, Any]) -> Sealed | None:
    """The same, what counts of it."""
    envelope = envelope_of(meta)
    if envelope is None:
        return None
    return Sealed(_key_id(envelope.key_id), envelope.key_version, envelope.born, envelope.born_at)


@lru_cache(maxsize=4096)
def _shared(labels: tuple[tuple[str, str], ...]) -> Labels:
    return dict(labels)


@lru_cache(maxsize=4096)
def _key_id(key_id: UUID) -> UUID:
    return key_id
