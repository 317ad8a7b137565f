"""The tokens of tokens.toml, one after the other, each with the service that drives it."""

import os
import secrets
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from keyshred.envelope.format import Mechanism
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from tests.cluster.softhsm import SoftHsm
from tests.contract import stranger
from tests.contract.faults import Faults

ENTRIES = tomllib.loads(Path(__file__).with_name("tokens.toml").read_text())["token"]

SOFTHSM = pytest.mark.parametrize(
    "token", [entry for entry in ENTRIES if entry["name"] == "softhsm-gcm"], ids=["softhsm"], indirect=True
)
"""For what is the same with every mechanism, or SoftHSM's own."""


@dataclass(frozen=True)
class Token:
    """A token of the list. `made` is None for one that exists already: it must not be pulled out or locked."""

    uri: str
    mechanism: Mechanism
    forced: bool
    data_objects: bool
    made: SoftHsm | None

    def start(self, **options: Any) -> HsmService:
        return HsmService.start(self.uri, mechanism=self.mechanism if self.forced else None, **options)

    def ask_stranger(self, verb: str, *arguments: object) -> Any:
        return stranger.ask(self.uri, verb, *arguments)


@pytest.fixture(params=ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def token(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    entry = request.param
    made, uri = None, os.environ.get(entry.get("uri_env", ""), "")
    if entry.get("make") == "softhsm":
        made = SoftHsm.create(tmp_path / "hsm")
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        uri = made.uri
    elif not uri:
        pytest.skip(f"{entry['uri_env']} is not set")
    return Token(uri, Mechanism(entry["mechanism"]), entry.get("forced", False), entry.get("data_objects", True), made)


@pytest.fixture
def made(token: Token) -> SoftHsm:
    """The token, where it may be pulled out and have its PIN tried wrongly."""
    if token.made is None:
        pytest.skip("the token was not made for this test")
    return token.made


@pytest.fixture(scope="session")
def faulty_module(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults.build(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(faulty_module: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Faults to arrange; at the end there are none."""
    for name, value in faulty_module.env.items():
        monkeypatch.setenv(name, value)
    yield faulty_module
    faulty_module.clear()


@pytest.fixture
async def hsm(token: Token) -> AsyncIterator[HsmService]:
    service = token.start()
    yield service
    await service.close()


@pytest.fixture
def key_id(token: Token) -> Iterator[UUID]:
    """A key ID that no token knows; whatever is left of it is cleared away from a token that lives on."""
    key_id = uuid4()
    yield key_id
    if token.made is None:
        token.ask_stranger("destroy", key_id)
        token.ask_stranger("forget", key_id)


@pytest.fixture
async def ref(hsm: HsmService, key_id: UUID) -> KeyRef:
    """A key on the token."""
    ref = KeyRef(key_id, 1)
    await hsm.generate(ref)
    return ref


@dataclass(frozen=True)
class Wrapped:
    """A DEK and what became of it."""

    dek: bytes
    data: bytes


@pytest.fixture
async def wrapped(hsm: HsmService, token: Token, ref: KeyRef) -> Wrapped:
    dek = secrets.token_bytes(32)
    return Wrapped(dek, await hsm.wrap(ref, token.mechanism, dek))
