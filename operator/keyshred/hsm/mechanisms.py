"""Which mechanism wraps DEKs on this token: asked for by doing, not by reading mechanism lists, which lie."""

import secrets
from collections.abc import Callable
from typing import Final, Protocol

from keyshred.envelope.format import WRAPPED_SIZE, Mechanism
from keyshred.envelope.seal import DEK_SIZE
from keyshred.errors import CannotOpen, ConfigInvalid
from keyshred.hsm.ckr import CkrError, Meaning

PREFERENCE: Final = (Mechanism.AES_GCM, Mechanism.AES_KWP)
"""NIST SP 800-38D with an AAD first; RFC 5649, which takes none, where the token has no GCM for us."""


class TrialKey(Protocol):
    """A key inside the token; `pkcs11_token.Key` is one."""

    def wrap(self, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        """See interface.Device.wrap."""

    def unwrap(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        """See interface.Device.unwrap."""


def negotiate(make_key: Callable[[Mechanism], TrialKey], forced: Mechanism | None) -> Mechanism:
    """The first mechanism that a key inside the token proves. `forced` leaves no choice.

    Raises ConfigInvalid if there is none, CkrError if the token is away: that proves nothing either way.
    """
    reasons = []
    for mechanism in (forced,) if forced else PREFERENCE:
        try:
            prove(make_key(mechanism), mechanism)
        except CkrError as failure:
            if failure.meaning in (Meaning.AWAY, Meaning.PIN):
                raise
            reasons.append(f"{mechanism}: {failure.name}")
        except ConfigInvalid as failure:
            reasons.append(f"{mechanism}: {failure}")
        else:
            return mechanism
    raise ConfigInvalid("the token proves no mechanism that keyshred may use: " + "; ".join(reasons))


def prove(key: TrialKey, mechanism: Mechanism) -> None:
    """A round trip, and a refusal of what must be refused. Raises ConfigInvalid with what went wrong, and CkrError.

    The tag and the AAD are tried because a token that skips either check would pass every round trip.
    """
    dek, aad = secrets.token_bytes(DEK_SIZE), b"keyshred-trial"
    wrapped = key.wrap(mechanism, dek, aad)
    if len(wrapped) != WRAPPED_SIZE[mechanism]:
        raise ConfigInvalid(f"a wrapped DEK has {len(wrapped)} bytes, not {WRAPPED_SIZE[mechanism]}")
    if _unwrap(key, mechanism, wrapped, aad) != dek:
        raise ConfigInvalid("a DEK did not come back")
    if _unwrap(key, mechanism, wrapped[:-1] + bytes([wrapped[-1] ^ 1]), aad):
        raise ConfigInvalid("a tampered DEK was accepted")
    if mechanism is Mechanism.AES_GCM and _unwrap(key, mechanism, wrapped, aad + b"!"):
        raise ConfigInvalid("a wrong AAD was accepted")
    if mechanism is Mechanism.AES_GCM and key.wrap(mechanism, dek, aad)[:12] == wrapped[:12]:
        raise ConfigInvalid("an IV was repeated")


def _unwrap(key: TrialKey, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes | None:
    try:
        return key.unwrap(mechanism, wrapped, aad)
    except CannotOpen:
        return None
