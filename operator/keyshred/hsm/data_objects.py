"""What keyshred keeps on the token beside its keys: who claims a key, and the head of its ledger.

Each is a data object (CKO_DATA) and found by its label. PKCS#11 cannot replace an object in one step, so a new head is
written beside the old one before that goes: a crash leaves one or both, and of both the higher number counts.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from keyshred.errors import KeyAmbiguous, TokenBroken
from keyshred.hsm.pkcs11_token import Data, Session

CLAIM: Final = "keyshred-claim"
HEAD: Final = "keyshred-head"
"""What labels begin with, up to a colon."""
_NUMBER: Final = 8


@dataclass(frozen=True, slots=True)
class Head:
    """One head of a key's ledger, as an object: number (u64, big-endian) ‖ value."""

    number: int
    """Higher than that of every head before it."""
    value: bytes
    thing: Data


def come_back(session: Session) -> bool:
    """Whether the token gives a data object back as it was. Raises CkrError, whatever the token has against it."""
    value = secrets.token_bytes(32)
    # Of the session: a token that is full or write-protected at the moment still keeps data objects.
    trial = session.store("keyshred-trial", value, on_token=False)
    try:
        return trial.value() == value
    finally:
        trial.destroy()


def claim_label(key_id: UUID, cluster_uid: str) -> str:
    """CKA_LABEL of a cluster's claim on a key."""
    return f"{CLAIM}:{key_id}:{cluster_uid}"


def claims(session: Session, key_id: UUID) -> frozenset[str]:
    """UIDs of the clusters that claim the key."""
    # PKCS#11 searches whole labels alone.
    prefix = claim_label(key_id, "")
    labels = (thing.label() for thing in session.data())
    return frozenset(label.removeprefix(prefix) for label in labels if label.startswith(prefix))


def heads(session: Session, key_id: UUID) -> list[Head]:
    """All heads of the key's ledger, in the order of their numbers. Raises TokenBroken for what is none."""
    return in_order(key_id, session.data(_head_label(key_id)))


def in_order(key_id: UUID, things: Iterable[Data]) -> list[Head]:
    """The same of data objects with the label of a head."""
    found = [(thing.value(), thing) for thing in things]
    if any(len(value) < _NUMBER for value, _ in found):
        raise TokenBroken(f"the token's data object {_head_label(key_id)} is not one that keyshred wrote")
    return sorted(
        (Head(int.from_bytes(value[:_NUMBER], "big"), value[_NUMBER:], thing) for value, thing in found),
        key=lambda head: head.number,
    )


def newest(found: list[Head]) -> Head | None:
    """The head that counts, of `heads`. Raises KeyAmbiguous where two different ones have the highest number."""
    if not found:
        return None
    if len({head.value for head in found if head.number == found[-1].number}) > 1:
        raise KeyAmbiguous("two controllers wrote a head of this key's ledger at the same time: a person must look")
    return found[-1]


def write_head(session: Session, key_id: UUID, number: int, value: bytes) -> Data:
    """A further head, beside those that are there."""
    return session.store(_head_label(key_id), number.to_bytes(_NUMBER, "big") + value)


def _head_label(key_id: UUID) -> str:
    return f"{HEAD}:{key_id}"
