"""Sealing and opening of values with a DEK (docs/envelope-format.md, sections 4 and 5).

No error tells tampering, a wrong key and a wrong context apart.
"""

import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from keyshred.envelope.context import PREFIX, Context, value_aad
from keyshred.envelope.format import COMMIT_SIZE, NONCE_SIZE, Envelope, split_sealed
from keyshred.errors import CannotOpen

DEK_SIZE: Final = 32

_VEK_SIZE: Final = 32
_INFO: Final = b"keyshred/v1\x00"


class ValueKeys:
    """The key for the values of one Secret, and the commit that its envelope must carry.

    No dataclass and no __dict__: neither repr nor a comparison shows the key.
    """

    __slots__ = ("_aead", "_ctx", "commit")

    def __init__(self, vek: bytes, commit: bytes, ctx: bytes) -> None:
        self._aead = AESGCM(vek)
        self._ctx = ctx
        self.commit: Final = commit

    def seal(self, data_key: str, plaintext: bytes) -> bytes:
        """Seals one value under a fresh random nonce: OVERHEAD bytes more. Raises Malformed for a bad data key."""
        return self._seal(data_key, plaintext, nonce=secrets.token_bytes(NONCE_SIZE))

    def open(self, data_key: str, sealed: bytes) -> bytes:
        """The plaintext. Raises MalformedValue (shape), Malformed (data key) or CannotOpen (all else)."""
        nonce, ciphertext = split_sealed(sealed)
        aad = value_aad(self._ctx, data_key)
        try:
            return self._aead.decrypt(nonce, ciphertext, aad)
        except InvalidTag:
            raise CannotOpen from None

    def _seal(self, data_key: str, plaintext: bytes, *, nonce: bytes) -> bytes:
        # Apart from seal for the test vectors alone: a nonce used twice under one key gives both plaintexts away.
        return PREFIX + nonce + self._aead.encrypt(nonce, plaintext, value_aad(self._ctx, data_key))


def new_dek() -> bytes:
    """A data encryption key: 32 random bytes from the kernel."""
    return secrets.token_bytes(DEK_SIZE)


def derive(dek: bytes, context: Context) -> ValueKeys:
    """The keys for the values of one Secret (HKDF-Expand, RFC 5869 section 2.3).

    dek: 32 bytes, any other length raises CannotOpen.
    """
    # 40 bytes of AES-KWP can hold a key of 25 to 32 bytes: what was unwrapped is not yet known to be a DEK.
    if len(dek) != DEK_SIZE:
        raise CannotOpen
    ctx = context.encode()
    okm = HKDFExpand(algorithm=SHA256(), length=_VEK_SIZE + COMMIT_SIZE, info=_INFO + ctx).derive(dek)
    return ValueKeys(okm[:_VEK_SIZE], okm[_VEK_SIZE:], ctx)


def unlock(dek: bytes, envelope: Envelope) -> ValueKeys:
    """The keys for the values under `envelope`. Raises CannotOpen unless the DEK gives the envelope's commit.

    It goes by the names in the envelope: the caller compares `envelope.context` with the Secret at hand, before.
    """
    keys = derive(dek, envelope.context)
    if not hmac.compare_digest(keys.commit, envelope.commit):
        raise CannotOpen
    return keys
