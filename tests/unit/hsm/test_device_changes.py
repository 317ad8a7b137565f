"""Data objects, and when the device changes nothing."""

from collections.abc import Callable

import pytest

from keyshred.envelope.format import Mechanism
from keyshred.errors import (
    ConfigInvalid,
    HsmUnavailable,
    KeyAmbiguous,
    NotSupported,
    TokenBroken,
)
from keyshred.hsm import softhsm
from keyshred.hsm.ckr import CkrError, Meaning
from keyshred.hsm.device import Pkcs11Device
from keyshred.hsm.interface import KeyRef
from tests.unit.hsm.fake_token import REF, Thing, Token

# --- claims and the ledger's head -------------------------------------------------------------------------------------


def test_a_new_head_is_on_disk_before_the_old_one_goes(device: Pkcs11Device, token: Token) -> None:
    device.set_head(REF.key_id, b"one")
    token.log.clear()
    device.set_head(REF.key_id, b"two")
    assert token.log == [
        f"write {bytes(7)!r}"[:-1] + "\\x01two'",
        "sync",
        f"unlink {bytes(8)!r}"[:-1] + "one'",
        "sync",
    ]
    assert device.head(REF.key_id) == b"two"


def test_the_head_that_is_there_is_not_written_again_and_its_forerunners_go(device: Pkcs11Device, token: Token) -> None:
    device.set_head(REF.key_id, b"one")
    (old,) = token.notes
    device.set_head(REF.key_id, b"two")
    token.notes.append(old)
    assert device.head(REF.key_id) == b"two"
    token.log.clear()
    device.set_head(REF.key_id, b"two")
    assert [entry.split()[0] for entry in token.log] == ["unlink", "sync"]
    assert len(token.notes) == 1


def test_two_heads_of_one_number_count_only_where_they_say_the_same(device: Pkcs11Device, token: Token) -> None:
    device.set_head(REF.key_id, b"one")
    token.store(f"keyshred-head:{REF.key_id}", bytes(8) + b"one")
    assert device.head(REF.key_id) == b"one"
    token.store(f"keyshred-head:{REF.key_id}", bytes(8) + b"two")
    with pytest.raises(KeyAmbiguous, match="same time"):
        device.head(REF.key_id)
    with pytest.raises(KeyAmbiguous, match="same time"):
        device.set_head(REF.key_id, b"three")
    token.store(f"keyshred-head:{REF.key_id}", b"no head")
    with pytest.raises(TokenBroken, match="not one that keyshred wrote"):
        device.head(REF.key_id)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_head_that_is_not_on_disk_leaves_the_old_one(
    device: Pkcs11Device, token: Token, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    device.set_head(REF.key_id, b"one")
    syncs = iter(range(1, 9))

    def full(serial: str) -> None:
        if next(syncs) == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(softhsm, "sync", full)
    with pytest.raises(HsmUnavailable, match="No space"):
        device.set_head(REF.key_id, b"two")
    assert device.head(REF.key_id) == (b"one", b"two")[failing - 1]
    assert len(token.notes) == 1


def test_a_claim_that_is_not_on_disk_is_taken_back(
    device: Pkcs11Device, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(serial: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(softhsm, "sync", full)
    with pytest.raises(HsmUnavailable, match="No space"):
        device.set_claim(REF.key_id, "uid", True)
    assert device.claims(REF.key_id) == frozenset()


def test_no_claim_and_no_head_are_believed_only_of_a_token_that_shows_all(device: Pkcs11Device, token: Token) -> None:
    device.status()
    token.hidden = 1
    for ask in (
        lambda: device.claims(REF.key_id),
        lambda: device.head(REF.key_id),
        lambda: device.set_head(REF.key_id, b"one"),
        lambda: device.set_claim(REF.key_id, "uid", True),
    ):
        with pytest.raises(HsmUnavailable, match="all of its objects"):
            ask()
    assert not token.notes


@pytest.mark.parametrize("meaning", [Meaning.SETUP, Meaning.BROKEN, Meaning.UNCLEAR])
def test_a_token_without_data_objects_says_so_and_serves_keys(
    device: Pkcs11Device, token: Token, meaning: Meaning
) -> None:
    token.keeps_notes = CkrError("AttributeValueInvalid", meaning)
    device.generate(REF)
    assert not device.status().data_objects
    for ask in (
        lambda: device.claims(REF.key_id),
        lambda: device.head(REF.key_id),
        lambda: device.set_head(REF.key_id, b"one"),
        lambda: device.set_claim(REF.key_id, "uid", True),
    ):
        with pytest.raises(NotSupported):
            ask()


def test_a_token_that_once_kept_data_objects_does_not_lose_that_by_a_fault(device: Pkcs11Device, token: Token) -> None:
    device.status()
    device.close()
    token.keeps_notes = CkrError("FunctionFailed", Meaning.UNCLEAR)
    assert device.status().data_objects
    with pytest.raises(HsmUnavailable, match="FunctionFailed"):
        device.set_head(REF.key_id, b"one")


def test_a_token_that_goes_away_meanwhile_is_not_taken_for_one_without_data_objects(
    device: Pkcs11Device, token: Token
) -> None:
    token.keeps_notes = CkrError("DeviceRemoved", Meaning.AWAY)
    with pytest.raises(HsmUnavailable, match="DeviceRemoved"):
        device.status()


# --- changes ----------------------------------------------------------------------------------------------------------


def _changes(device: Pkcs11Device) -> list[Callable[[], object]]:
    return [
        lambda: device.generate(KeyRef(REF.key_id, 2)),
        lambda: device.set_head(REF.key_id, b"one"),
        lambda: device.set_claim(REF.key_id, "uid", True),
        lambda: device.set_claim(REF.key_id, "other", False),
        lambda: device.destroy(REF.key_id),
    ]


def test_nothing_is_changed_for_a_caller_that_gave_up_meanwhile(device: Pkcs11Device, token: Token) -> None:
    # The token may have hung so long before the change that another controller is at work by now.
    device.generate(REF)
    device.set_claim(REF.key_id, "other", True)
    things, notes = [*token.aes_keys()], [*token.notes]
    device.wanted = lambda: False
    for change in _changes(device):
        with pytest.raises(HsmUnavailable, match="nothing was changed"):
            change()
    assert (token.aes_keys(), token.notes) == (things, notes)


def test_why_a_change_fails_is_told_where_the_files_tell_it(
    device: Pkcs11Device, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> Thing:
        raise CkrError("GeneralError", Meaning.UNCLEAR)

    device.status()
    monkeypatch.setattr(token, "generate", fails)
    token.obstacle = "its file system is full: make room"
    token.log.clear()
    with pytest.raises(ConfigInvalid, match="takes no change: its file system is full"):
        device.generate(REF)
    assert not token.log
    assert device.find(REF.key_id) == ()


def test_a_key_without_a_value_is_not_taken_for_a_key(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    token.valueless = True
    with pytest.raises(TokenBroken, match="cut off"):
        device.check_value(REF)
    with pytest.raises(TokenBroken, match="cut off"):
        device.wrap(REF, Mechanism.AES_GCM, bytes(32))
    assert device.destroy(REF.key_id) == 1
