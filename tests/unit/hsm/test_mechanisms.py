"""Negotiation against tokens that get something wrong."""

import os

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from keyshred.envelope.format import Mechanism
from keyshred.errors import CannotOpen, ConfigInvalid
from keyshred.hsm.ckr import CkrError, Meaning
from keyshred.hsm.mechanisms import negotiate, prove

GCM, KWP = Mechanism.AES_GCM, Mechanism.AES_KWP


class GoodKey:
    """What a token should do."""

    def __init__(self) -> None:
        self.key = os.urandom(32)

    def wrap(self, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        if mechanism is KWP:
            return aes_key_wrap_with_padding(self.key, dek)
        iv = self.iv()
        return iv + AESGCM(self.key).encrypt(iv, dek, aad)

    def unwrap(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        try:
            if mechanism is KWP:
                return aes_key_unwrap_with_padding(self.key, wrapped)
            return AESGCM(self.key).decrypt(wrapped[:12], wrapped[12:], aad)
        except (InvalidTag, InvalidUnwrap):
            raise CannotOpen from None

    def iv(self) -> bytes:
        return os.urandom(12)


class SameIv(GoodKey):
    def iv(self) -> bytes:
        return bytes(12)


class NoTag(GoodKey):
    """CTR in all but name: nothing is checked."""

    def unwrap(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        keystream = AESGCM(self.key).encrypt(wrapped[:12], bytes(32), b"")
        return bytes(a ^ b for a, b in zip(wrapped[12:44], keystream[:32], strict=True))


class NoAad(GoodKey):
    def wrap(self, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        return super().wrap(mechanism, dek, b"")

    def unwrap(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        return super().unwrap(mechanism, wrapped, b"")


class ShortTag(GoodKey):
    def wrap(self, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        return super().wrap(mechanism, dek, aad)[:-4]


class OtherDek(GoodKey):
    def unwrap(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        super().unwrap(mechanism, wrapped, aad)
        return bytes(32)


class OwnIv(GoodKey):
    """Writes an IV of its own and does not tell."""

    def wrap(self, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        return os.urandom(12) + super().wrap(mechanism, dek, aad)[12:]


@pytest.mark.parametrize("mechanism", Mechanism)
def test_a_good_key_proves_itself(mechanism: Mechanism) -> None:
    prove(GoodKey(), mechanism)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        (SameIv(), "IV was repeated"),
        (NoTag(), "tampered DEK"),
        (NoAad(), "wrong AAD"),
        (ShortTag(), "56 bytes"),
        (OwnIv(), "did not come back"),
        (OtherDek(), "did not come back"),
    ],
)
def test_a_key_that_gets_it_wrong_is_found_out(key: GoodKey, fault: str) -> None:
    with pytest.raises(ConfigInvalid, match=fault):
        prove(key, GCM)


def test_gcm_comes_first_kwp_second_and_a_forced_one_alone() -> None:
    asked: list[Mechanism] = []

    def without_gcm(mechanism: Mechanism) -> GoodKey:
        asked.append(mechanism)
        if mechanism is GCM:
            raise CkrError("MechanismInvalid", Meaning.SETUP)
        return GoodKey()

    assert negotiate(lambda _: GoodKey(), None) is GCM
    assert negotiate(lambda _: GoodKey(), KWP) is KWP
    assert negotiate(without_gcm, None) is KWP
    assert asked == [GCM, KWP]
    with pytest.raises(ConfigInvalid, match="AES_GCM: MechanismInvalid"):
        negotiate(without_gcm, GCM)


def test_a_token_that_hides_its_iv_gets_kwp() -> None:
    assert negotiate(lambda mechanism: OwnIv() if mechanism is GCM else GoodKey(), None) is KWP


def test_an_absent_token_proves_nothing_either_way() -> None:
    def away(mechanism: Mechanism) -> GoodKey:
        if mechanism is GCM:
            raise CkrError("DeviceRemoved", Meaning.AWAY)
        return GoodKey()

    with pytest.raises(CkrError):
        negotiate(away, None)


def test_a_token_that_proves_nothing_says_why() -> None:
    with pytest.raises(ConfigInvalid, match=r"AES_GCM: a tampered DEK was accepted; AES_KWP: "):
        negotiate(lambda _: NoTag() if _ is GCM else ShortTag(), None)
