"""PKCS#11 calls, typed: a module, a logged-in session, its keys. The only module that imports `pkcs11`.

Whatever the PKCS#11 module answers but CKR_OK is raised as `ckr.CkrError`. All of it runs in one thread: python-pkcs11
calls C_Initialize(NULL), which forbids threads, and drops the GIL.
"""

import contextlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import (
    Attribute,
    GCMParams,
    KeyType,
    MechanismFlag,
    ObjectClass,
    PKCS11Error,
    TokenFlag,
    TokenWriteProtected,
)
from pkcs11 import Mechanism as Ckm

from keyshred.envelope.format import NONCE_SIZE, TAG_SIZE, WRAPPED_SIZE, Mechanism
from keyshred.envelope.seal import DEK_SIZE
from keyshred.errors import CannotOpen, ConfigInvalid
from keyshred.hsm import ckr
from keyshred.hsm.ckr import CkrError, Meaning

# python-pkcs11 makes a class per object out of its attributes, which no type checker can follow.
_Object = Any
_Template = dict[Attribute, Any]

_KEY_BITS: Final = 256
_USAGE: Final = {
    Mechanism.AES_GCM: MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
    # PKCS#11 offers KWP as wrap and unwrap only. ENCRYPT stays for the check value; DECRYPT is not needed.
    Mechanism.AES_KWP: MechanismFlag.ENCRYPT | MechanismFlag.WRAP | MechanismFlag.UNWRAP,
}
_USAGE_FLAGS: Final = {
    Attribute.ENCRYPT: MechanismFlag.ENCRYPT,
    Attribute.DECRYPT: MechanismFlag.DECRYPT,
    Attribute.WRAP: MechanismFlag.WRAP,
    Attribute.UNWRAP: MechanismFlag.UNWRAP,
    Attribute.SIGN: MechanismFlag.SIGN,
    Attribute.VERIFY: MechanismFlag.VERIFY,
    Attribute.DERIVE: MechanismFlag.DERIVE,
}
_PROTECTION: Final[_Template] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    # Without these two, who has the PIN could copy or rename a key, and a shred would miss the copy.
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
_DATA: Final[_Template] = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: "keyshred"}
_AES_KEYS: Final[_Template] = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES}
_SESSION_DEK: Final[_Template] = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: False,
    Attribute.EXTRACTABLE: True,
}


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """C_GetTokenInfo and C_GetSlotInfo."""

    label: str
    serial: str
    manufacturer: str
    model: str
    firmware: str
    slot_id: int
    slot_description: str
    slot_manufacturer: str
    pin_in_danger: bool
    """The next wrong PIN locks the token, or it is locked already."""


class Module:
    """A PKCS#11 module, initialised when it is made."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigInvalid if there is no such file, CkrError if it does not want to start."""
        if not os.access(path, os.R_OK):
            raise ConfigInvalid(f"PKCS#11 module {path}: not there, or not readable")
        with _answers():
            self._library: Any = pkcs11.lib(str(path))

    def tokens(self) -> "list[tuple[TokenInfo, Any]]":
        """Initialised tokens that answer and have a serial number, with the handle that `Session` wants."""
        tokens = []
        with _answers():
            for slot in self._library.get_slots(token_present=True):
                # SoftHSM fails here for a token whose files are away; another slot is no reason to stop.
                with contextlib.suppress(PKCS11Error):
                    token = slot.get_token()
                    info = _info(token)
                    # No serial: a token that cannot be told from another, or a SoftHSM caught while its files leave.
                    if token.flags & TokenFlag.TOKEN_INITIALIZED and info.serial:
                        tokens.append((info, token))
        return tokens

    def finalize(self) -> None:
        """Ends every session of this process, also one that a failed login left open."""
        with contextlib.suppress(PKCS11Error):
            self._library.finalize()


class Session:
    """A session logged in as user, read-write where the token allows it."""

    def __init__(self, token: Any, pin: str) -> None:
        """`token` from Module.tokens. Tries the PIN once."""
        self._slot = token.slot
        with _answers():
            try:
                self._session = token.open(rw=True, user_pin=pin)
            except TokenWriteProtected:
                # C_OpenSession's answer, before any login: keys that are there can still be used.
                self._session = token.open(rw=False, user_pin=pin)

    def token_info(self) -> TokenInfo:
        """Asked anew. SoftHSM fails here for good once the token's files were away, even if they came back."""
        with _answers():
            info = _info(self._slot.get_token())
        if not info.serial:
            raise CkrError("TokenNotPresent", Meaning.AWAY)
        return info

    def aes_keys(self, label: str | None = None, cka_id: bytes | None = None, *, on_token: bool = True) -> "list[Key]":
        """AES keys on the token, or those of the session; every one there is, or those that match."""
        template = {**_AES_KEYS, Attribute.TOKEN: on_token}
        if label is not None:
            template[Attribute.LABEL] = label
        if cka_id is not None:
            template[Attribute.ID] = cka_id
        return [Key(found) for found in self._search(template)]

    def count(self) -> int:
        """Objects on the token, of every class."""
        return len(self._search({Attribute.TOKEN: True}))

    def labelled(self, label: str) -> "list[Thing]":
        """Objects of every class with this label."""
        return [Thing(found) for found in self._search({Attribute.LABEL: label})]

    def data(self, label: str | None = None) -> "list[Data]":
        """keyshred's data objects on the token: all, or those with this label."""
        template = {**_DATA, Attribute.TOKEN: True}
        if label is not None:
            template[Attribute.LABEL] = label
        return [Data(found) for found in self._search(template)]

    def store(self, label: str, value: bytes, *, on_token: bool = True) -> "Data":
        """A new data object."""
        attributes = {Attribute.TOKEN: on_token, Attribute.PRIVATE: True, Attribute.LABEL: label}
        with _answers():
            return Data(self._session.create_object({**_DATA, **attributes, Attribute.VALUE: value}))

    def generate(self, mechanism: Mechanism, label: str, cka_id: bytes = b"", *, on_token: bool = True) -> "Key":
        """A new AES-256 key with the attributes of the design contract, section 7."""
        with _answers():
            made = self._session.generate_key(
                KeyType.AES,
                _KEY_BITS,
                id=cka_id,
                label=label,
                store=on_token,
                capabilities=_USAGE[mechanism],
                template=_PROTECTION,
            )
        return Key(made)

    def _search(self, template: _Template) -> list[_Object]:
        with _answers():
            # To the end, always: a search that is left half-way blocks the session for everything else.
            return list(self._session.get_objects(template))


class Thing:
    """An object of the token, by its handle."""

    def __init__(self, thing: _Object) -> None:
        self._object = thing

    @property
    def handle(self) -> int:
        """CK_OBJECT_HANDLE: unique while the session lives."""
        return int(self._object.handle)

    def label(self) -> str:
        """CKA_LABEL."""
        with _answers():
            return str(self._object[Attribute.LABEL])

    def destroy(self) -> None:
        """C_DestroyObject."""
        with _answers():
            self._object.destroy()


class Data(Thing):
    """A data object."""

    def value(self) -> bytes:
        """CKA_VALUE."""
        with _answers():
            return bytes(self._object[Attribute.VALUE])


class Key(Thing):
    """An AES key."""

    def cka_id(self) -> bytes:
        """CKA_ID."""
        with _answers():
            return bytes(self._object[Attribute.ID])

    def encrypt_block(self, block: bytes) -> bytes:
        """AES-ECB of one 16-byte block, for check values."""
        with _answers():
            return bytes(self._object.encrypt(block, mechanism=Ckm.AES_ECB))

    def faults(self) -> list[str]:
        """Attributes that a root key must not have; empty for a good one.

        A key that could be read, copied or renamed may have leaked already, or escape its shredding.
        """
        with _answers():
            attributes = self._object.get_attributes([*_PROTECTION, *_USAGE_FLAGS, Attribute.VALUE_LEN])
        wrong = {**_PROTECTION, Attribute.VALUE_LEN: _KEY_BITS // 8}
        faults = [str(attribute.name) for attribute, value in wrong.items() if attributes[attribute] != value]
        usage = MechanismFlag(0)
        for attribute, flag in _USAGE_FLAGS.items():
            usage |= flag if attributes[attribute] else 0
        return faults if usage in _USAGE.values() else [*faults, "usage"]

    def wrap(self, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        """See interface.Device.wrap. Raises ConfigInvalid for a key that was made for another mechanism."""
        if not self._fits(mechanism):
            raise ConfigInvalid(f"this key was not made for {mechanism}")
        with _answers():
            if mechanism is Mechanism.AES_GCM:
                iv = os.urandom(NONCE_SIZE)
                sealed = self._object.encrypt(dek, mechanism=Ckm.AES_GCM, mechanism_param=_gcm(iv, aad))
                # The IV only now: python-pkcs11 lends these very bytes to the module, and some HSMs write an IV of
                # their own into them.
                return iv + bytes(sealed)
            value = self._object.session.create_object({**_AES_KEYS, **_SESSION_DEK, Attribute.VALUE: dek})
            try:
                return bytes(self._object.wrap_key(value, mechanism=self._kwp()))
            finally:
                value.destroy()

    def unwrap(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        """See interface.Device.unwrap. Raises CannotOpen, and CkrError where it does not mean a bad ciphertext."""
        if not self._fits(mechanism) or len(wrapped) != WRAPPED_SIZE[mechanism]:
            raise CannotOpen
        try:
            dek = self._unwrap_twice(mechanism, wrapped, aad)
        except CkrError as failure:
            bad = failure.meaning is Meaning.BAD_DATA
            # SoftHSM says CKR_GENERAL_ERROR to a bad tag and to a broken token alike.
            if bad or (failure.meaning is Meaning.UNCLEAR and self.works(mechanism)):
                raise CannotOpen from None
            raise
        if len(dek) != DEK_SIZE:
            raise CannotOpen
        return dek

    def opens(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bool:
        """Whether it opens, on the token's word: believe a no only of a token that then proves to work."""
        try:
            return self._fits(mechanism) and len(self._unwrap_twice(mechanism, wrapped, aad)) == DEK_SIZE
        except CkrError as failure:
            if failure.meaning is Meaning.AWAY:
                raise
            return False

    def _fits(self, mechanism: Mechanism) -> bool:
        # python-pkcs11 gives an object the methods that its attributes allow.
        return hasattr(self._object, "decrypt" if mechanism is Mechanism.AES_GCM else "unwrap_key")

    def _unwrap_twice(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        """Where the answer may mean anything, once more: a fault may pass, a bad ciphertext stays one."""
        try:
            return self._unwrap(mechanism, wrapped, aad)
        except CkrError as failure:
            if failure.meaning is not Meaning.UNCLEAR:
                raise
            return self._unwrap(mechanism, wrapped, aad)

    def _unwrap(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        with _answers():
            if mechanism is Mechanism.AES_GCM:
                param = _gcm(wrapped[:NONCE_SIZE], aad)
                return bytes(self._object.decrypt(wrapped[NONCE_SIZE:], mechanism=Ckm.AES_GCM, mechanism_param=param))
            value = self._object.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                mechanism=self._kwp(),
                capabilities=MechanismFlag(0),
                template=_SESSION_DEK,
            )
            try:
                return bytes(value[Attribute.VALUE])
            finally:
                value.destroy()

    def works(self, mechanism: Mechanism) -> bool:
        """A known-answer test with this very key. Raises CkrError."""
        dek, aad = os.urandom(DEK_SIZE), b"keyshred-known-answer"
        return hmac.compare_digest(self._unwrap(mechanism, self.wrap(mechanism, dek, aad), aad), dek)

    def _kwp(self) -> Ckm:
        # PKCS#11 2.40 left open which padding CKM_AES_KEY_WRAP_PAD means. For SoftHSM it is RFC 5649, and the only
        # name for it; elsewhere CKM_AES_KEY_WRAP_KWP (3.0) says it without doubt.
        software = "SoftHSM" in self._object.session.token.model
        return Ckm.AES_KEY_WRAP_PAD if software else Ckm.AES_KEY_WRAP_KWP


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except PKCS11Error as failure:
        raise ckr.read(failure) from None


def _gcm(iv: bytes, aad: bytes) -> GCMParams:
    return GCMParams(iv, aad, 8 * TAG_SIZE)


def _info(token: Any) -> TokenInfo:
    slot = token.slot
    return TokenInfo(
        label=token.label,
        serial=token.serial.decode("utf-8", "replace").rstrip("\0 "),
        manufacturer=token.manufacturer_id,
        model=token.model,
        firmware="{}.{}".format(*token.firmware_version),
        slot_id=slot.slot_id,
        slot_description=slot.slot_description,
        slot_manufacturer=slot.manufacturer_id,
        pin_in_danger=bool(token.flags & (TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY)),
    )
