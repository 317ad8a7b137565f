"""What no real token can be made to do: the device over a token of our own invention."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid4

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
from keyshred.hsm import device as device_module
from keyshred.hsm import softhsm
from keyshred.hsm.ckr import CkrError, Meaning
from keyshred.hsm.device import Pkcs11Device
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.pin import PinFile
from keyshred.hsm.pkcs11_token import TokenInfo
from keyshred.hsm.uri import TokenUri
from tests.unit.hsm.test_mechanisms import GoodKey

REF = KeyRef(uuid4(), 1)
INFO = TokenInfo("label", "serial", "SoftHSM project", "SoftHSM v2", "2.6", 0, "slot", "vendor", pin_in_danger=False)


class Thing(GoodKey):
    """An AES key on the token."""

    def __init__(self, token: "Token", label: str, cka_id: bytes, on_token: bool = True) -> None:
        super().__init__()
        self.token, self.label, self.id, self.on_token = token, label, cka_id, on_token
        self.handle = id(self)

    def cka_id(self) -> bytes:
        return self.id

    def works(self, mechanism: Mechanism) -> bool:
        return self.token.works

    def faults(self) -> list[str]:
        return self.token.faults

    def opens(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bool:
        return False

    def destroy(self) -> None:
        if not self.token.undying:
            self.token.things.remove(self)
        self.token.log.append("destroy")


@dataclass
class Token:
    """Module, session and token in one."""

    infos: list[TokenInfo] = field(default_factory=lambda: [INFO])
    things: list[Thing] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    works: bool = True
    undying: bool = False
    hidden: int = 0
    logged_in: bool = True
    login: CkrError | None = None
    born: Callable[[Thing], None] = lambda thing: None

    def tokens(self) -> list[tuple[TokenInfo, object]]:
        return [(info, self) for info in self.infos]

    def finalize(self) -> None:
        self.log.append("finalize")
        self.things = [thing for thing in self.things if thing.on_token]

    def open(self, _: object, pin: str) -> "Token":
        self.log.append("login")
        if self.login:
            raise self.login
        self.logged_in = True
        return self

    def token_info(self) -> TokenInfo:
        return self.infos[0]

    def aes_keys(self, label: str | None = None, cka_id: bytes | None = None, *, on_token: bool = True) -> list[Thing]:
        return [
            thing
            for thing in self.things
            if self.logged_in
            and thing.on_token is on_token
            and label in (None, thing.label)
            and cka_id in (None, thing.id)
        ]

    def count(self) -> int:
        return len(self.aes_keys())

    def labelled(self, label: str) -> list[Thing]:
        return self.aes_keys(label)

    def generate(self, mechanism: Mechanism, label: str, cka_id: bytes = b"", *, on_token: bool = True) -> Thing:
        thing = Thing(self, label, cka_id, on_token)
        self.things.append(thing)
        if on_token:
            self.log.append("generate")
            self.born(thing)
        return thing


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Token:
    token = Token()
    monkeypatch.setattr(device_module, "Module", lambda path: token)
    monkeypatch.setattr(device_module, "Session", token.open)
    monkeypatch.setattr(softhsm, "sync", lambda serial: token.log.append("sync"))
    monkeypatch.setattr(softhsm, "object_count", lambda serial: token.count() + token.hidden)
    return token


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time on, by seconds."""
    now = [0.0]
    monkeypatch.setattr("keyshred.hsm.device.time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.fixture
def pin(tmp_path: Path) -> PinFile:
    (tmp_path / "pin").write_text("1234")
    (tmp_path / "pin").chmod(0o600)
    return PinFile(tmp_path / "pin")


@pytest.fixture
def device(token: Token, pin: PinFile) -> Pkcs11Device:
    return Pkcs11Device(TokenUri(Path("/m"), Path("/p"), token="label"), pin)


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
    token.born = lambda thing: token.things.append(Thing(token, thing.label, thing.id))
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


@pytest.mark.parametrize("cka_id", [b"", b"x" * 20, REF.key_id.bytes, REF.key_id.bytes + bytes(4)])
def test_an_object_with_our_label_and_a_foreign_id_stops_the_search(
    device: Pkcs11Device, token: Token, cka_id: bytes
) -> None:
    token.things.append(Thing(token, REF.label, cka_id))
    with pytest.raises(KeyAmbiguous):
        device.find(REF.key_id)


def test_a_lost_login_is_never_an_empty_token(device: Pkcs11Device, token: Token) -> None:
    device.generate(REF)
    for ask in (
        lambda: device.find(REF.key_id),
        lambda: device.check_value(KeyRef(REF.key_id, 2)),
        lambda: device.opens_under_any_key(Mechanism.AES_GCM, b"", b""),
        lambda: device.status(),
    ):
        device.status()
        token.logged_in = False
        with pytest.raises(HsmUnavailable, match="logged in"):
            ask()
        assert token.log[-1] == "finalize"
    assert device.find(REF.key_id) == (REF,)


def test_a_token_that_hides_an_object_is_never_believed(device: Pkcs11Device, token: Token) -> None:
    other = KeyRef(REF.key_id, 2)
    device.generate(REF)
    token.hidden = 1
    for ask in (
        lambda: device.find(REF.key_id),
        lambda: device.check_value(other),
        lambda: device.generate(other),
        lambda: device.destroy(REF.key_id),
        lambda: device.opens_under_any_key(Mechanism.AES_GCM, b"", b""),
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
    before = device.wrap(REF, Mechanism.AES_GCM, bytes(32), b"")
    device.close()
    token.things = [Thing(token, REF.label, REF.cka_id)]
    with pytest.raises(CannotOpen):
        device.unwrap(REF, Mechanism.AES_GCM, before, b"")


def test_nothing_opens_is_believed_only_of_a_token_that_works(device: Pkcs11Device, token: Token) -> None:
    assert device.opens_under_any_key(Mechanism.AES_GCM, b"", b"") is False
    token.works = False
    with pytest.raises(TokenBroken):
        device.opens_under_any_key(Mechanism.AES_GCM, b"", b"")
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
    assert tries[-1] in range(12, 25)
    token.login = None
    clock(5)
    assert device.status().serial == "serial"


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
    with pytest.raises(TokenMismatch, match="another attribute"):
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
