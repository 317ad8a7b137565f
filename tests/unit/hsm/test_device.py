"""What no real token can be made to do: the device over a token of our own invention."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from keyshred.envelope.format import Mechanism
from keyshred.errors import (
    CannotOpen,
    ConfigInvalid,
    Conflict,
    HsmUnavailable,
    KeyAmbiguous,
    KeyMissing,
    PinRefused,
    TokenBroken,
    TokenMismatch,
)
from keyshred.hsm import softhsm
from keyshred.hsm.ckr import CkrError, Meaning
from keyshred.hsm.device import Pkcs11Device
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.pin import PinFile
from keyshred.hsm.pkcs11_token import TokenInfo
from keyshred.hsm.uri import TokenUri
from tests.unit.hsm.fake_token import INFO, REF, Thing, Token


def test_a_key_is_on_disk_before_it_counts_as_made(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    assert token.log == ["login", "generate", "sync"]


def test_a_destroyed_key_is_off_the_disk_before_it_counts_as_gone(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    token.log.clear()
    assert device.destroy(REF.key_id) == 1
    assert token.log == ["finalize", "login", "destroy", "sync"]


def test_a_hardware_token_is_not_synced(device: Pkcs11Device, token: Token) -> None:
    token.infos = [replace(INFO, manufacturer="vendor", model="hsm")]
    device.generate(REF)
    assert "sync" not in token.log
    assert not device.status().software


def test_a_key_that_is_not_on_disk_is_taken_back(
    device: Pkcs11Device, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(serial: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(softhsm, "sync", full)
    with pytest.raises(HsmUnavailable, match="No space"):
        device.generate(REF)
    assert not token.aes_keys(REF.label)


def test_a_key_that_came_out_weaker_than_asked_for_is_taken_back(device: Pkcs11Device, token: Token) -> None:
    token.faults = ["EXTRACTABLE"]
    with pytest.raises(TokenBroken, match="EXTRACTABLE"):
        device.generate(REF)
    assert not token.aes_keys(REF.label)


def test_of_two_that_make_a_version_at_once_this_one_gives_way(device: Pkcs11Device, token: Token) -> None:
    token.born = lambda thing: token.things.append(Thing(token, thing.label(), thing.id))
    with pytest.raises(Conflict, match="same time"):
        device.generate(REF)
    assert len(token.aes_keys(REF.label)) == 1


def test_a_version_that_is_there_is_not_made_again_even_for_a_moment(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    with pytest.raises(Conflict, match="already"):
        device.generate(REF)
    assert token.log.count("generate") == 1


def test_a_token_that_keeps_what_it_says_it_destroyed_is_broken(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    token.undying = True
    with pytest.raises(TokenBroken, match="still lists"):
        device.destroy(REF.key_id)


@pytest.mark.parametrize(
    "cka_id",
    [b"", b"x" * 20, REF.key_id.bytes, REF.key_id.bytes + bytes(4)],
    ids=["empty", "no key ID", "no version", "version 0"],
)
def test_an_object_with_our_label_and_a_foreign_id_stops_the_search(
    device: Pkcs11Device, token: Token, cka_id: bytes
) -> None:
    token.things.append(Thing(token, REF.label, cka_id))
    with pytest.raises(KeyAmbiguous):
        device.find(REF.key_id)


def _asking(device: Pkcs11Device) -> list[Callable[[], object]]:
    """The calls that change nothing."""
    return [
        lambda: device.find(REF.key_id),
        lambda: device.check_value(REF),
        lambda: len(device.wrap(REF, Mechanism.AES_GCM, bytes(32))),
        lambda: device.opens_under_any_key(REF, Mechanism.AES_GCM, b""),
        lambda: device.status(),
    ]


def test_a_lost_login_is_made_anew_within_the_call(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    expected = [ask() for ask in _asking(device)]
    for ask, answer in zip(_asking(device), expected, strict=True):
        token.logged_in = False
        device._keys.clear()
        token.log.clear()
        assert ask() == answer
        assert token.log == ["finalize", "login"]


def test_a_login_that_is_lost_again_at_once_is_never_an_empty_token(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    for ask in _asking(device):
        device.status()
        device._keys.clear()
        token.log.clear()
        token.logged_in, token.fleeting = False, True
        with pytest.raises(HsmUnavailable, match="logged in"):
            ask()
        assert token.log == ["finalize", "login", "finalize"]
        token.fleeting = False
    assert device.find(REF.key_id) == (REF,)


def test_a_session_that_fails_when_it_is_fresh_is_not_made_anew_in_the_same_call(
    device: Pkcs11Device, token: Token
) -> None:
    for ask in _asking(device):
        token.log.clear()
        token.fleeting = True
        with pytest.raises(HsmUnavailable, match="logged in"):
            ask()
        assert token.log == ["login", "finalize"]


def test_a_key_is_made_once_whatever_the_answer(
    device: Pkcs11Device, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, on_token: bool = True, **__: object) -> Thing:
        token.log.append("generate")
        raise CkrError("DeviceError", Meaning.AWAY)

    device.status()
    token.log.clear()
    monkeypatch.setattr(token, "generate", lost)
    with pytest.raises(HsmUnavailable, match="DeviceError"):
        device.generate(REF)
    assert token.log == ["generate", "finalize"]


def test_a_key_is_made_on_the_session_that_proved_its_absence(device: Pkcs11Device, token: Token) -> None:
    device.status()
    token.logged_in = False
    token.log.clear()
    device.generate(REF)
    assert token.log == ["finalize", "login", "generate", "sync"]


def test_a_wrong_pin_is_tried_once_where_a_session_is_lost(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    token.logged_in, token.login = False, CkrError("PinIncorrect", Meaning.PIN)
    token.log.clear()
    for _ in range(3):
        with pytest.raises(PinRefused):
            device.find(REF.key_id)
    assert token.log.count("login") == 1


def test_a_token_that_hides_an_object_is_never_believed(device: Pkcs11Device, token: Token) -> None:
    other = KeyRef(REF.key_id, 2)
    device.generate(REF)
    token.hidden = 1
    for ask in (
        lambda: device.find(REF.key_id),
        lambda: device.check_value(other),
        lambda: device.generate(other),
        lambda: device.destroy(REF.key_id),
        lambda: device.opens_under_any_key(REF, Mechanism.AES_GCM, b""),
    ):
        with pytest.raises(HsmUnavailable, match="all of its objects"):
            ask()
    assert token.log.count("generate") == 1


def test_nothing_is_left_is_not_believed_of_a_login_that_was_lost(
    device: Pkcs11Device, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.generate(REF)

    def lost(_: str) -> list[Thing]:
        token.logged_in = False
        return []

    monkeypatch.setattr(token, "labelled", lost)
    with pytest.raises(HsmUnavailable, match="logged in"):
        device.destroy(REF.key_id)


def test_a_handle_from_before_a_loss_is_never_used_after_it(device: Pkcs11Device, token: Token) -> None:
    # Handles are counted anew after C_Initialize: an old one may name another key.
    device.generate(REF)
    before = device.wrap(REF, Mechanism.AES_GCM, bytes(32))
    device.close()
    token.things = [Thing(token, REF.label, REF.cka_id)]
    with pytest.raises(CannotOpen):
        device.unwrap(REF, Mechanism.AES_GCM, before)


def test_nothing_opens_is_believed_only_of_a_token_that_works(device: Pkcs11Device, token: Token) -> None:
    assert device.opens_under_any_key(REF, Mechanism.AES_GCM, b"") is False
    token.works = False
    with pytest.raises(TokenBroken):
        device.opens_under_any_key(REF, Mechanism.AES_GCM, b"")
    with pytest.raises(TokenBroken):
        device.status()


def test_a_token_one_try_from_its_lock_is_not_tried(device: Pkcs11Device, token: Token) -> None:
    token.infos = [replace(INFO, pin_in_danger=True)]
    with pytest.raises(PinRefused, match="a person"):
        device.status()
    assert "login" not in token.log


def test_a_refused_pin_is_tried_once_whatever_the_time(
    device: Pkcs11Device, token: Token, clock: Callable[[float], None]
) -> None:
    token.login = CkrError("PinIncorrect", Meaning.PIN)
    for _ in range(5):
        with pytest.raises(PinRefused):
            device.status()
        clock(3600)
    assert token.log.count("login") == 1


def test_an_absent_token_is_asked_for_with_growing_pauses(
    device: Pkcs11Device, token: Token, clock: Callable[[float], None]
) -> None:
    token.login = CkrError("DeviceRemoved", Meaning.AWAY)
    tries = []
    for _ in range(1000):
        with pytest.raises(HsmUnavailable):
            device.status()
        tries.append(token.log.count("login"))
        clock(0.0625)
    assert tries[:4] == [1, 1, 2, 2]
    assert tries[-1] in range(100, 130)
    token.login = None
    clock(0.5)
    assert device.status().serial == "serial"


def test_a_token_that_takes_long_to_fail_is_asked_less_often(
    device: Pkcs11Device, token: Token, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> list[object]:
        token.log.append("asked")
        clock(4)
        return []

    monkeypatch.setattr(token, "tokens", slow)
    for seconds in (0, 3.9, 0.2):
        clock(seconds)
        with pytest.raises(HsmUnavailable):
            device.status()
    assert token.log.count("asked") == 2


def test_a_token_that_a_person_must_see_to_is_asked_seldom(
    device: Pkcs11Device, token: Token, clock: Callable[[float], None]
) -> None:
    token.infos = [replace(INFO, pin_in_danger=True)]
    for _ in range(1000):
        with pytest.raises(PinRefused):
            device.status()
        clock(0.0625)
    assert token.log.count("finalize") in range(12, 25)


@pytest.mark.parametrize(
    ("infos", "error", "message"),
    [
        ([], HsmUnavailable, "no token"),
        ([replace(INFO, label="other")], HsmUnavailable, "no token"),
        ([INFO, replace(INFO, serial="2")], TokenMismatch, "add serial"),
    ],
)
def test_exactly_one_token_must_match(
    device: Pkcs11Device, token: Token, infos: list[TokenInfo], error: type[Exception], message: str
) -> None:
    token.infos = infos
    with pytest.raises(error, match=message):
        device.status()
    assert "login" not in token.log


def test_a_token_with_the_label_but_another_serial_gets_no_pin(token: Token, pin: PinFile) -> None:
    device = Pkcs11Device(TokenUri(Path("/m"), Path("/p"), token="label", serial="other"), pin)
    with pytest.raises(TokenMismatch, match="the serial serial and not other"):
        device.status()
    assert "login" not in token.log


def test_a_token_that_was_exchanged_is_not_used(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    token.infos = [replace(INFO, serial="2")]
    with pytest.raises(TokenMismatch):
        device.status()
    device.close()
    token.log.clear()
    with pytest.raises(TokenMismatch, match="exchanged"):
        device.check_value(REF)
    assert "login" not in token.log


def test_a_token_that_leaves_during_negotiation_is_away_not_unfit(
    token: Token, pin: PinFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object, **__: object) -> Thing:
        raise CkrError("GeneralError", Meaning.UNCLEAR)

    monkeypatch.setattr(token, "generate", leave)
    device = Pkcs11Device(TokenUri(Path("/m"), Path("/p"), token="label"), pin)
    with pytest.raises(ConfigInvalid):
        device.status()
    monkeypatch.setattr(token, "token_info", leave)
    device = Pkcs11Device(TokenUri(Path("/m"), Path("/p"), token="label"), pin)
    with pytest.raises(HsmUnavailable):
        device.status()


def test_a_key_that_is_gone_is_missing_where_the_token_is_there(device: Pkcs11Device) -> None:
    with pytest.raises(KeyMissing):
        device.check_value(REF)
    assert device.find(UUID(int=1)) == ()
