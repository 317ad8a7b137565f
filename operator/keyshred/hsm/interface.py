"""What keyshred asks of a token, and the value types that pass between.

A `Device` is synchronous and belongs to one thread (design contract, section 7); everybody else goes through
`keyshred.hsm.service.HsmService`, which has the same operations as coroutines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from keyshred.envelope.context import wrap_aad
from keyshred.envelope.format import Mechanism

CHECK_BLOCK: Final = b"keyshred-check-1"
"""The 16-byte block behind a check value: its AES-256-ECB encryption, all of it.

The usual KCV encrypts the zero block, and that is GCM's hash key H: three bytes of it in a status field are three bytes
too many. A block of our own says nothing about H, and 128 bits make two keys with one check value a non-event."""


MAX_HEAD: Final = 512
"""Bytes of a ledger's head."""


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

    @property
    def aad(self) -> bytes:
        """What a DEK wrapped under this version is bound to, where the mechanism takes an AAD."""
        return wrap_aad(self.key_id, self.version)


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
    data_objects: bool
    """It keeps data objects for us, so claims and the ledger's head can be guarded."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the token holds of keyshred's, all in one look. What is not as it should be is left out, with its key ID."""

    keys: Mapping[UUID, tuple[KeyRef, ...]]
    """Versions, ascending."""
    claims: Mapping[UUID, frozenset[str]]
    """UIDs of clusters; empty where the token keeps no data objects, as `heads` is."""
    heads: Mapping[UUID, bytes]


class Device(Protocol):
    """One logged-in token. Called from the thread that owns it, and from no other.

    Every method may raise HsmUnavailable (away: reopened at the next call), TokenBroken, and, where it has to reopen,
    what opening raises: PinRefused, TokenMismatch, ConfigInvalid. What changes nothing on the token is asked once more,
    on a fresh session, where an established one fails; a change is made once.
    """

    wanted: Callable[[], bool]
    """Whether the caller of this call still waits; asked before each change. Set by the service."""

    def status(self) -> TokenStatus:
        """Ask the token who it is, and have it wrap and unwrap with a session key: it answers and it works."""

    def find(self, key_id: UUID) -> tuple[KeyRef, ...]:
        """All versions the token holds, ascending, from its own list of AES keys with this label.

        Raises KeyAmbiguous where two objects carry the same version, or one carries a CKA_ID that is not ours.
        """

    def survey(self) -> Survey:
        """What `find`, `claims` and `head` say, of all keys: those go through the whole token for one of them."""

    def generate(self, ref: KeyRef) -> None:
        """Make the key inside the token; when this returns it is on disk and its attributes were read back.

        Raises Conflict if the token already holds this version.
        """

    def check_value(self, ref: KeyRef) -> bytes:
        """16 bytes that name the key material (see CHECK_BLOCK). Raises KeyMissing, KeyAmbiguous."""

    def wrap(self, ref: KeyRef, mechanism: Mechanism, dek: bytes) -> bytes:
        """Encrypt a 32-byte DEK. AES_GCM: iv[12] ‖ ciphertext[32] ‖ tag[16], bound to `ref.aad`; AES_KWP: RFC 5649,
        40 bytes, no AAD.

        Raises KeyMissing, KeyAmbiguous.
        """

    def unwrap(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bytes:
        """Decrypt a DEK. Raises CannotOpen (tampered, wrong key, wrong AAD), KeyMissing, KeyAmbiguous."""

    def destroy(self, key_id: UUID) -> int:
        """Destroy every object with the key's label, in a fresh logged-in session, until none is found.

        Returns how many objects were destroyed: 0 means that they were gone already, on a token that answered.
        """

    def opens_under_any_key(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bool:
        """Whether any AES key of the token opens a DEK that was wrapped under `ref`: the canary of a destruction."""

    def claims(self, key_id: UUID) -> frozenset[str]:
        """UIDs of the clusters that claim this key, from the token's own data objects.

        These four raise NotSupported where the token stores no data objects (`TokenStatus.data_objects`).
        """

    def set_claim(self, key_id: UUID, cluster_uid: str, claimed: bool) -> None:
        """Makes or removes a cluster's claim on the key. Idempotent; on disk when it returns."""

    def head(self, key_id: UUID) -> bytes | None:
        """The ledger's head as it was last written for this key; None: never."""

    def set_head(self, key_id: UUID, head: bytes) -> None:
        """Replaces the ledger's head, at most MAX_HEAD bytes; on disk on return. A crash leaves the old or the new one.

        Raises KeyAmbiguous where two controllers wrote at the same time; so does `head`.
        """

    def close(self) -> None:
        """Log out. A call after it opens the token anew."""
