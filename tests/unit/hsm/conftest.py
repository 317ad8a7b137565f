"""A device over the token of our own invention."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keyshred.hsm import device as device_module
from keyshred.hsm import login, softhsm
from keyshred.hsm.device import Pkcs11Device
from keyshred.hsm.pin import PinFile
from keyshred.hsm.uri import TokenUri
from tests.unit.hsm.fake_token import Token


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Token:
    token = Token()
    monkeypatch.setattr(device_module, "Module", lambda path: token)
    monkeypatch.setattr(login, "Session", token.open)
    monkeypatch.setattr(softhsm, "keep_copy", lambda serial: None)
    monkeypatch.setattr(softhsm, "put_back", lambda: False)
    monkeypatch.setattr(softhsm, "obstacle", lambda serial: token.obstacle)
    monkeypatch.setattr(softhsm, "sync", lambda serial: token.log.append("sync"))
    monkeypatch.setattr(softhsm, "object_count", lambda serial: len(token.things) - 1 + len(token.notes) + token.hidden)
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
