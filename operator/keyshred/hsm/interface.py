"""What keyshred asks of a token, and the value types that pass between.

A `Device` is synchronous and belongs to one thread (design contract, section 7); everybody else goes through
`keyshred.hsm.service.HsmService`, which has the same operations as coroutines.
"""

from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from keyshred.envelope.format import Mechanism

CHECK_BLOCK: Final = b"keyshred-check-1"
"""The 16-byte block behind a check value: its AES-256-ECB encryption, all of it.

The usual KCV encrypts the zero block, and that is GCM's hash key H: three bytes of it in a status field are three bytes
too many. A block of our own says nothing about H, and 128 bits make two keys with one check value a non-event."""


@dataclass(frozen=True, slots=True)
class KeyRef:
    """One version of one root key."""

    key_id: UUID
    version: int
    """From 1, below 2^32."""

    def __post_init__(self) -> None:
        if not 0 < self.version < 1 << 32:
            raise ValueError("a key version is a positive 32-bit number")

    @property
    def cka_id(self) -> bytes:
        """CKA_ID: key ID[16] ‖ u32be version."""
        return self.key_id.bytes + self.version.to_bytes(4, "big")

    @property
    def label(self) -> str:
        """CKA_LABEL: the key ID, shared by all versions, because tokens cannot search CKA_ID by prefix."""
        return str(self.key_id)


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """The token as it answers now (C_GetTokenInfo); what a destruction record names."""

    label: str
    serial: str
    manufacturer: str
    model: str
    firmware: str
    mechanism: Mechanism
    """What new keys are made for; a key version keeps the mechanism it was made with."""
    software: bool
    """No hardware behind it: destroying a key unlinks a file, and a copied file brings the key back."""


class Device(Protocol):
    """One logged-in token. Called from the thread that owns it, and from no other.

    Every method may raise HsmUnavailable (away: reopened at the next call), TokenBroken, and, where it has to reopen,
    what opening raises: PinRefused, TokenMismatch, ConfigInvalid.
    """

    def status(self) -> TokenStatus:
        """Ask the token who it is, and have it wrap and unwrap with a session key: it answers and it works."""

    def find(self, key_id: UUID) -> tuple[KeyRef, ...]:
        """All versions the token holds, ascending, from its own list of AES keys with this label.

        Raises KeyAmbiguous where two objects carry the same version, or one carries a CKA_ID that is not ours.
        """

    def generate(self, ref: KeyRef) -> None:
        """Make the key inside the token; when this returns it is on disk and its attributes were read back.

        Raises Conflict if the token already holds this version.
        """

    def check_value(self, ref: KeyRef) -> bytes:
        """16 bytes that name the key material (see CHECK_BLOCK). Raises KeyMissing, KeyAmbiguous."""

    def wrap(self, ref: KeyRef, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        """Encrypt a 32-byte DEK. AES_GCM: iv[12] ‖ ciphertext[32] ‖ tag[16]; AES_KWP: RFC 5649, 40 bytes, no AAD.

        Raises KeyMissing, KeyAmbiguous.
        """

    def unwrap(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        """Decrypt a DEK. Raises CannotOpen (tampered, wrong key, wrong AAD), KeyMissing, KeyAmbiguous."""

    def destroy(self, key_id: UUID) -> int:
        """Destroy every object with the key's label, in a fresh logged-in session, until none is found.

        Returns how many objects were destroyed: 0 means that they were gone already, on a token that answered.
        """

    def opens_under_any_key(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bool:
        """Whether any AES key of the token opens this DEK: the canary of a destruction."""

    def close(self) -> None:
        """Log out. The device is not used afterwards."""
