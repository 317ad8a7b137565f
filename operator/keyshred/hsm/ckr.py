"""What a CKR return value means for the caller: one table (PKCS#11 v3.1, section 5.1).

Keyed by the exception names of python-pkcs11, which are the CKR names in camel case, so that this module needs no
pkcs11. Codes that python-pkcs11 does not know arrive as a number in a message and have a table of their own.
"""

import re
from enum import Enum, auto
from typing import Final

from keyshred.errors import ConfigInvalid, HsmUnavailable, KeyshredError, PinRefused, TokenBroken


class Meaning(Enum):
    """What to do about it."""

    AWAY = auto()
    """The token or the session is gone, or has no room: reopen, and let the caller try again."""
    STALE = auto()
    """The handle names nothing any more: look the key up again."""
    BAD_DATA = auto()
    """The ciphertext is not one of this key's. From any other call than unwrap: a broken token."""
    UNCLEAR = auto()
    """May be a bad ciphertext (SoftHSM) or anything else: a known-answer test decides."""
    PIN = auto()
    """The PIN is wrong, locked or unusable: never again."""
    SETUP = auto()
    """The token cannot do this, or may not with these credentials: settings must change."""
    BROKEN = auto()
    """Makes no sense here: a person must look."""


_BY_NAME: Final[dict[str, Meaning]] = {
    **dict.fromkeys(
        (
            "AnotherUserAlreadyLoggedIn",
            "DeviceError",
            "DeviceMemory",
            "DeviceRemoved",
            "FunctionCancelled",
            "HostMemory",
            "OperationActive",
            "OperationNotInitialized",
            "SessionClosed",
            "SessionCount",
            "SessionHandleInvalid",
            "SlotIDInvalid",
            "TokenNotPresent",
            "TokenNotRecognised",
            "UserAlreadyLoggedIn",
            "UserNotLoggedIn",
            "UserTooManyTypes",
        ),
        Meaning.AWAY,
    ),
    **dict.fromkeys(
        ("KeyHandleInvalid", "ObjectHandleInvalid", "UnwrappingKeyHandleInvalid", "WrappingKeyHandleInvalid"),
        Meaning.STALE,
    ),
    **dict.fromkeys(
        (
            "DataInvalid",
            "DataLenRange",
            "EncryptedDataInvalid",
            "EncryptedDataLenRange",
            "SignatureInvalid",
            "SignatureLenRange",
            "WrappedKeyInvalid",
            "WrappedKeyLenRange",
        ),
        Meaning.BAD_DATA,
    ),
    **dict.fromkeys(("FunctionFailed", "FunctionRejected", "GeneralError"), Meaning.UNCLEAR),
    **dict.fromkeys(
        (
            "PinExpired",
            "PinIncorrect",
            "PinInvalid",
            "PinLenRange",
            "PinLocked",
            "PinTooWeak",
        ),
        Meaning.PIN,
    ),
    **dict.fromkeys(
        (
            "AttributeTypeInvalid",
            "AttributeValueInvalid",
            "FunctionNotSupported",
            "KeyNotWrappable",
            "KeySizeRange",
            "KeyUnextractable",
            "MechanismInvalid",
            "MechanismParamInvalid",
            "SessionReadOnly",
            "TemplateIncomplete",
            "TemplateInconsistent",
            "TokenWriteProtected",
            "UserPinNotInitialized",
        ),
        Meaning.SETUP,
    ),
}

_BY_CODE: Final[dict[int, tuple[str, Meaning]]] = {
    0x1B: ("ActionProhibited", Meaning.SETUP),
    0x42: ("AeadDecryptFailed", Meaning.BAD_DATA),
    0x68: ("KeyFunctionNotPermitted", Meaning.SETUP),
    0x201: ("TokenResourceExceeded", Meaning.AWAY),
    0x202: ("OperationCancelFailed", Meaning.AWAY),
    0x203: ("KeyExhausted", Meaning.SETUP),
}
_WRITE_PROTECTED: Final = "the token is write-protected, so that nothing can be made or destroyed on it"
_CAUSES: Final = {
    "DeviceMemory": "the token has no room left: remove what nobody uses",
    "SessionReadOnly": _WRITE_PROTECTED,
    "TokenResourceExceeded": "the token has no room left: remove what nobody uses",
    "TokenWriteProtected": _WRITE_PROTECTED,
}
"""What to say where the code names its cause."""
_UNKNOWN_CODE: Final = re.compile(r"Unmapped error code 0x([0-9a-f]{1,16})")
_VENDOR_DEFINED: Final = 0x80000000
# python-pkcs11 has no class of its own for CKR_CRYPTOKI_NOT_INITIALIZED, only this text.
_NOT_INITIALIZED: Final = "not initialized"


class CkrError(Exception):
    """A call into the module failed. Stays inside the hsm package: callers of the device see `for_caller`."""

    def __init__(self, name: str, meaning: Meaning) -> None:
        super().__init__(name)
        self.name = name
        self.meaning = meaning

    def for_caller(self) -> KeyshredError:
        """The error of ours that this is."""
        cause = _CAUSES.get(self.name)
        match self.meaning:
            case Meaning.AWAY | Meaning.STALE | Meaning.UNCLEAR:
                return HsmUnavailable(f"{cause or 'the token does not answer as it should'} ({self.name}); try again")
            case Meaning.PIN:
                return PinRefused(f"the token refused the PIN ({self.name}); it is not tried again: correct the file")
            case Meaning.SETUP:
                return ConfigInvalid(f"{cause or 'the token cannot do this, or not with this login'} ({self.name})")
            case Meaning.BAD_DATA | Meaning.BROKEN:
                return TokenBroken(f"the token gave an answer that makes no sense here ({self.name})")


def read(exception: Exception) -> CkrError:
    """Name and meaning of a python-pkcs11 exception. Everything unknown is BROKEN, a vendor's own code UNCLEAR."""
    name, text = type(exception).__name__, str(exception)
    if name != "PKCS11Error":
        return CkrError(name, _BY_NAME.get(name, Meaning.BROKEN))
    if found := _UNKNOWN_CODE.fullmatch(text):
        code = int(found[1], 16)
        unknown = Meaning.UNCLEAR if code >= _VENDOR_DEFINED else Meaning.BROKEN
        return CkrError(*_BY_CODE.get(code, (f"0x{code:08x}", unknown)))
    if _NOT_INITIALIZED in text:
        return CkrError("CryptokiNotInitialized", Meaning.AWAY)
    return CkrError(name, Meaning.BROKEN)
