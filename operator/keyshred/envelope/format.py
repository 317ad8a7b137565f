"""The envelope as text, and the shape of a sealed value (docs/envelope-format.md, sections 2 and 5).

One envelope has one text: parse accepts a text only if serialise gives the very same one back.
"""

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar

from keyshred.envelope.context import MAX_KEY_VERSION, PREFIX, Context
from keyshred.errors import Malformed, MalformedEnvelope, MalformedValue

FORMAT_VERSION: Final = 1
MAX_TEXT: Final = 1024
"""Longest annotation that is looked at, in bytes; the longest canonical one is shorter."""
COMMIT_SIZE: Final = 16
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
OVERHEAD: Final = len(PREFIX) + NONCE_SIZE + TAG_SIZE
"""Bytes that a sealed value has more than its plaintext."""

_T = TypeVar("_T")


class Mechanism(StrEnum):
    """How the DEK is wrapped inside the HSM."""

    AES_GCM = "AES_GCM"
    """IV[12] ‖ ciphertext[32] ‖ tag[16], AAD from wrap_aad (NIST SP 800-38D)."""
    AES_KWP = "AES_KWP"
    """AES key wrap with padding (RFC 5649); takes no AAD."""


WRAPPED_SIZE: Final = {Mechanism.AES_GCM: 60, Mechanism.AES_KWP: 40}


class Born(StrEnum):
    """How the Secret came to be sealed."""

    SEALED = "sealed"
    """In the request that created it: it never stood in etcd in plaintext."""
    ADOPTED = "adopted"
    """It stood in etcd in plaintext before."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the annotation says. Raises MalformedEnvelope, with the name of the field, where a field is out of range.

    wrapped_dek: 60 bytes for AES_GCM, 40 for AES_KWP; commit: 16 bytes; born_at: UTC in whole seconds, 1970 or later.
    """

    key_id: uuid.UUID
    key_version: int
    mechanism: Mechanism
    wrapped_dek: bytes
    commit: bytes
    namespace: str
    name: str
    born: Born
    born_at: datetime

    def __post_init__(self) -> None:
        if not 1 <= self.key_version <= MAX_KEY_VERSION:
            raise MalformedEnvelope("envelope: keyVersion is not between 1 and 2^32 - 1")
        if len(self.wrapped_dek) != WRAPPED_SIZE[self.mechanism]:
            raise MalformedEnvelope("envelope: wrappedDEK has not the length of its mechanism")
        if len(self.commit) != COMMIT_SIZE:
            raise MalformedEnvelope(f"envelope: commit is not {COMMIT_SIZE} bytes")
        born_at = self.born_at
        if born_at.utcoffset() != timedelta(0) or born_at.microsecond or born_at.year < 1970:
            raise MalformedEnvelope("envelope: bornAt is not a time in UTC, in whole seconds, 1970 or later")
        try:
            _ = self.context
        except Malformed as error:
            raise MalformedEnvelope(f"envelope: {error}") from None

    @property
    def context(self) -> Context:
        """The Secret it was sealed for, as the envelope claims; compare it with the Secret that carries it."""
        return Context(self.key_id, self.namespace, self.name)


def serialise(envelope: Envelope) -> str:
    """The one text of an envelope: JSON in ASCII, members sorted, no white space; at most MAX_TEXT bytes."""
    return json.dumps(_members(envelope), separators=(",", ":"), sort_keys=True)


def parse(text: str) -> Envelope:
    """Reads the annotation. Raises MalformedEnvelope, naming the field, unless serialise gives `text` back."""
    if len(text) > MAX_TEXT:
        raise MalformedEnvelope(f"envelope: longer than {MAX_TEXT} bytes")
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise MalformedEnvelope("envelope: not JSON") from None
    if not isinstance(raw, dict):
        raise MalformedEnvelope("envelope: not a JSON object")
    # First, so that an envelope of a later format is called that and not one with unknown members.
    if _typed(raw, "v", int) != FORMAT_VERSION:
        raise MalformedEnvelope("envelope: v is a format version that is not known here")
    envelope = Envelope(
        key_id=_decoded(raw, "keyID", uuid.UUID),
        key_version=_typed(raw, "keyVersion", int),
        mechanism=_decoded(raw, "mechanism", Mechanism),
        wrapped_dek=_decoded(raw, "wrappedDEK", base64.b64decode),
        commit=_decoded(raw, "commit", base64.b64decode),
        namespace=_typed(raw, "namespace", str),
        name=_typed(raw, "name", str),
        born=_decoded(raw, "born", Born),
        born_at=_decoded(raw, "bornAt", datetime.fromisoformat),
    )
    # The decoders above are lenient (upper-case UUIDs, stray base64 bits, other time zones): what follows is the check.
    canonical = _members(envelope)
    if raw.keys() != canonical.keys():
        raise MalformedEnvelope("envelope: a member that the format does not have")
    for field, value in canonical.items():
        if raw[field] != value:
            raise MalformedEnvelope(f"envelope: {field} is not in its canonical form")
    if serialise(envelope) != text:
        raise MalformedEnvelope("envelope: not canonical JSON (order, white space, escapes or number form)")
    return envelope


def looks_sealed(value: bytes) -> bool:
    """True for what claims to be a sealed value: it starts with the prefix."""
    return value.startswith(PREFIX)


def split_sealed(value: bytes) -> tuple[bytes, bytes]:
    """Splits a sealed value into nonce and ciphertext ‖ tag. Raises MalformedValue: no prefix, or too short for one."""
    if not looks_sealed(value):
        raise MalformedValue("value: does not start with the prefix of a sealed value")
    if len(value) < OVERHEAD:
        raise MalformedValue("value: too short for a sealed value")
    start = len(PREFIX)
    return value[start : start + NONCE_SIZE], value[start + NONCE_SIZE :]


def _members(envelope: Envelope) -> dict[str, str | int]:
    return {
        "v": FORMAT_VERSION,
        "keyID": str(envelope.key_id),
        "keyVersion": envelope.key_version,
        "mechanism": envelope.mechanism.value,
        "wrappedDEK": base64.b64encode(envelope.wrapped_dek).decode(),
        "commit": base64.b64encode(envelope.commit).decode(),
        "namespace": envelope.namespace,
        "name": envelope.name,
        "born": envelope.born.value,
        "bornAt": envelope.born_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedEnvelope("envelope: a member is given twice")
    return members


def _typed(raw: dict[str, object], field: str, kind: type[_T]) -> _T:
    value = raw.get(field)
    # Not isinstance: true is an int in Python.
    if type(value) is not kind:
        raise MalformedEnvelope(f"envelope: {field} is missing or not of type {kind.__name__}")
    return value


def _decoded(raw: dict[str, object], field: str, decode: Callable[[str], _T]) -> _T:
    try:
        return decode(_typed(raw, field, str))
    except ValueError:
        raise MalformedEnvelope(f"envelope: {field} cannot be read") from None
