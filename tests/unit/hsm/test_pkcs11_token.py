"""Answers that SoftHSM never gives, from an object of our own invention."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pkcs11
import pytest
from pkcs11 import GCMParams

from keyshred.envelope.format import Mechanism
from keyshred.errors import CannotOpen
from keyshred.hsm.ckr import CkrError
from keyshred.hsm.pkcs11_token import Key

GCM = Mechanism.AES_GCM
DEK = b"d" * 32


class Thing:
    """A python-pkcs11 key that answers as it is told."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.session = SimpleNamespace(token=SimpleNamespace(model="hsm"))

    def decrypt(self, data: bytes, **_: Any) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def encrypt(self, data: bytes, mechanism_param: GCMParams, **_: Any) -> bytes:
        return data + bytes(16)


class OwnIv(Thing):
    """Writes an IV of its own where the caller's was, as some HSMs do."""

    def encrypt(self, data: bytes, mechanism_param: GCMParams, **_: Any) -> bytes:
        start = id(mechanism_param.nonce) + bytes.__basicsize__ - 1
        ctypes.memmove(start, b"the HSM's IV", 12)
        return data + bytes(16)


def test_the_iv_is_the_one_that_the_token_used() -> None:
    wrapped = Key(OwnIv()).wrap(GCM, DEK, b"")
    assert wrapped == b"the HSM's IV" + DEK + bytes(16)


@pytest.mark.parametrize("length", [0, 59, 61])
def test_a_wrong_length_does_not_reach_the_token(length: int) -> None:
    thing = Thing(DEK)
    with pytest.raises(CannotOpen):
        Key(thing).unwrap(GCM, bytes(length), b"")
    assert thing.answers


def test_a_dek_of_another_size_does_not_open() -> None:
    with pytest.raises(CannotOpen):
        Key(Thing(bytes(16))).unwrap(GCM, bytes(60), b"")
    assert not Key(Thing(bytes(16))).opens(GCM, bytes(60), b"")


def test_a_bad_tag_by_its_own_name_is_believed_at_once() -> None:
    with pytest.raises(CannotOpen):
        Key(Thing(pkcs11.EncryptedDataInvalid())).unwrap(GCM, bytes(60), b"")


@pytest.mark.parametrize("known_answer", [bytes(32), pkcs11.GeneralError()])
def test_a_token_that_fails_the_known_answer_test_is_not_a_bad_ciphertext(known_answer: bytes | Exception) -> None:
    with pytest.raises(CkrError, match="GeneralError"):
        Key(Thing(pkcs11.GeneralError(), pkcs11.GeneralError(), known_answer)).unwrap(GCM, bytes(60), b"")


def test_a_fault_that_passes_is_no_bad_ciphertext() -> None:
    assert Key(Thing(pkcs11.GeneralError(), DEK)).unwrap(GCM, bytes(60), b"") == DEK
    assert Key(Thing(pkcs11.GeneralError(), DEK)).opens(GCM, bytes(60), b"")


def test_a_token_that_goes_away_during_the_canary_search_is_no_answer() -> None:
    with pytest.raises(CkrError, match="DeviceRemoved"):
        Key(Thing(pkcs11.DeviceRemoved())).opens(GCM, bytes(60), b"")
    assert not Key(Thing(pkcs11.GeneralError(), pkcs11.GeneralError())).opens(GCM, bytes(60), b"")
    assert Key(Thing(DEK)).opens(GCM, bytes(60), b"")
