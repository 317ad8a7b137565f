"""Meanings of CKR return values."""

import inspect

import pkcs11.exceptions
import pytest

from keyshred import errors
from keyshred.hsm import ckr
from keyshred.hsm.ckr import Meaning


@pytest.mark.parametrize("name", ckr._BY_NAME)
def test_every_name_in_the_table_is_one_that_python_pkcs11_raises(name: str) -> None:
    raised = getattr(pkcs11.exceptions, name)
    assert inspect.isclass(raised) and issubclass(raised, pkcs11.PKCS11Error)


@pytest.mark.parametrize(
    ("exception", "name", "meaning", "error"),
    [
        (pkcs11.DeviceRemoved(), "DeviceRemoved", Meaning.AWAY, errors.HsmUnavailable),
        (pkcs11.SessionHandleInvalid(), "SessionHandleInvalid", Meaning.AWAY, errors.HsmUnavailable),
        (pkcs11.ObjectHandleInvalid(), "ObjectHandleInvalid", Meaning.STALE, errors.HsmUnavailable),
        (pkcs11.EncryptedDataInvalid(), "EncryptedDataInvalid", Meaning.BAD_DATA, errors.TokenBroken),
        (pkcs11.GeneralError(), "GeneralError", Meaning.UNCLEAR, errors.HsmUnavailable),
        (pkcs11.PinIncorrect(), "PinIncorrect", Meaning.PIN, errors.PinRefused),
        (pkcs11.PinLocked(), "PinLocked", Meaning.PIN, errors.PinRefused),
        (pkcs11.DeviceMemory(), "DeviceMemory", Meaning.AWAY, errors.HsmUnavailable),
        (pkcs11.UserTooManyTypes(), "UserTooManyTypes", Meaning.AWAY, errors.HsmUnavailable),
        (pkcs11.TokenWriteProtected(), "TokenWriteProtected", Meaning.SETUP, errors.ConfigInvalid),
        (pkcs11.DataLenRange(), "DataLenRange", Meaning.BAD_DATA, errors.TokenBroken),
        (pkcs11.PKCS11Error("Unmapped error code 0x201"), "TokenResourceExceeded", Meaning.AWAY, errors.HsmUnavailable),
        (pkcs11.PKCS11Error("Unmapped error code 0x202"), "OperationCancelFailed", Meaning.AWAY, errors.HsmUnavailable),
        (pkcs11.PKCS11Error("Unmapped error code 0x203"), "KeyExhausted", Meaning.SETUP, errors.ConfigInvalid),
        (pkcs11.AttributeReadOnly(), "AttributeReadOnly", Meaning.BROKEN, errors.TokenBroken),
        (pkcs11.PKCS11Error("Unmapped error code 0x1b"), "ActionProhibited", Meaning.SETUP, errors.ConfigInvalid),
        (pkcs11.PKCS11Error("Unmapped error code 0x42"), "AeadDecryptFailed", Meaning.BAD_DATA, errors.TokenBroken),
        (pkcs11.PKCS11Error("Unmapped error code 0x80000005"), "0x80000005", Meaning.UNCLEAR, errors.HsmUnavailable),
        (pkcs11.PKCS11Error("Unmapped error code 0x7777"), "0x00007777", Meaning.BROKEN, errors.TokenBroken),
        (
            pkcs11.PKCS11Error("Initialisation error (not initialized). Should never see this."),
            "CryptokiNotInitialized",
            Meaning.AWAY,
            errors.HsmUnavailable,
        ),
        (pkcs11.PKCS11Error("anything else"), "PKCS11Error", Meaning.BROKEN, errors.TokenBroken),
    ],
)
def test_name_meaning_and_error(
    exception: Exception, name: str, meaning: Meaning, error: type[errors.KeyshredError]
) -> None:
    found = ckr.read(exception)
    assert (found.name, found.meaning) == (name, meaning)
    assert type(found.for_caller()) is error
    assert name in str(found.for_caller())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("DeviceMemory", "no room"),
        ("TokenResourceExceeded", "no room"),
        ("TokenWriteProtected", "write-protected"),
        ("SessionReadOnly", "write-protected"),
    ],
)
def test_a_code_that_names_its_cause_has_it_told(name: str, told: str) -> None:
    assert told in str(ckr.CkrError(name, Meaning.SETUP).for_caller())
    assert told in str(ckr.CkrError(name, Meaning.AWAY).for_caller())


def test_every_meaning_has_an_error() -> None:
    for meaning in Meaning:
        assert isinstance(ckr.CkrError("Name", meaning).for_caller(), errors.KeyshredError)
