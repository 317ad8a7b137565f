"""A token in trouble: codes that it answers with, calls that hang, no room, no right to write."""

import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from keyshred.errors import ConfigInvalid, HsmUnavailable, NotSupported
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from tests.cluster.softhsm import SoftHsm
from tests.contract.conftest import SOFTHSM, Token, Wrapped
from tests.contract.faults import Faults
from tests.contract.test_loss import until_ready

pytestmark = [
    SOFTHSM,
    # python-pkcs11 ends a search that could not begin, in a __del__ that nobody can catch from.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DEVICE_ERROR, DEVICE_MEMORY, DEVICE_REMOVED, GENERAL_ERROR = 0x30, 0x31, 0x32, 0x05
OBJECT_HANDLE_INVALID, SESSION_CLOSED, SESSION_HANDLE_INVALID, USER_NOT_LOGGED_IN = 0x82, 0xB0, 0xB3, 0x101
ATTRIBUTE_VALUE_INVALID, TOKEN_WRITE_PROTECTED = 0x13, 0xE2
LOSSES = (
    *(DEVICE_ERROR, DEVICE_MEMORY, DEVICE_REMOVED, GENERAL_ERROR),
    *(OBJECT_HANDLE_INVALID, SESSION_CLOSED, SESSION_HANDLE_INVALID, USER_NOT_LOGGED_IN),
)


@pytest.fixture
def start(token: Token, made: SoftHsm, faults: Faults) -> Callable[..., HsmService]:
    """Starts a service whose module does as the faults say."""
    return replace(token, uri=faults.uri_of(made)).start


@pytest.fixture
async def hsm(start: Callable[..., HsmService]) -> AsyncIterator[HsmService]:
    service = start()
    yield service
    await service.close()


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", LOSSES, ids=hex)
@pytest.mark.parametrize("function", ["C_EncryptInit", "C_Encrypt"])
async def test_a_wrap_that_fails_once_is_made_on_a_fresh_session(
    hsm: HsmService, token: Token, faults: Faults, ref: KeyRef, wrapped: Wrapped, function: str, code: int
) -> None:
    faults.arrange(function, code, once=True)
    data = await hsm.wrap(ref, token.mechanism, wrapped.dek)
    assert not faults.plan.exists()
    assert await hsm.unwrap(ref, token.mechanism, data) == wrapped.dek


@pytest.mark.parametrize("code", LOSSES, ids=hex)
async def test_an_unwrap_that_fails_once_is_no_bad_ciphertext(
    hsm: HsmService, token: Token, faults: Faults, ref: KeyRef, wrapped: Wrapped, code: int
) -> None:
    faults.arrange("C_DecryptInit", code, once=True)
    assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek
    assert not faults.plan.exists()


@pytest.mark.parametrize("code", [DEVICE_ERROR, GENERAL_ERROR, SESSION_HANDLE_INVALID], ids=hex)
async def test_a_search_that_goes_on_failing_finds_nothing_out(
    hsm: HsmService, faults: Faults, ref: KeyRef, code: int
) -> None:
    faults.arrange("C_FindObjects", code)
    asks: list[Callable[[UUID], Awaitable[object]]] = [hsm.find, hsm.claims, hsm.head, hsm.destroy]
    for ask in asks:
        with pytest.raises(HsmUnavailable):
            await ask(ref.key_id)
    faults.clear()
    await until_ready(hsm)
    assert await hsm.find(ref.key_id) == (ref,)


@pytest.mark.parametrize("code", [DEVICE_ERROR, DEVICE_MEMORY, GENERAL_ERROR, USER_NOT_LOGGED_IN], ids=hex)
async def test_a_change_that_fails_is_not_made_a_second_time(
    hsm: HsmService, token: Token, faults: Faults, ref: KeyRef, wrapped: Wrapped, code: int
) -> None:
    second = KeyRef(ref.key_id, 2)
    await hsm.set_head(ref.key_id, b"old")
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "C_GenerateKey": lambda: hsm.generate(second),
        "C_CreateObject": lambda: hsm.set_head(ref.key_id, b"new"),
        "C_DestroyObject": lambda: hsm.destroy(ref.key_id),
    }
    for function, change in changes.items():
        faults.arrange(function, code, once=True)
        with pytest.raises(HsmUnavailable, match="no room" if code == DEVICE_MEMORY else "does not answer"):
            await change()
        assert await hsm.find(ref.key_id) == (ref,)
        assert await hsm.head(ref.key_id) == b"old"
    assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek
    await hsm.generate(second)


async def test_a_token_that_keeps_no_data_objects_serves_keys_and_says_what_it_cannot(
    hsm: HsmService, token: Token, faults: Faults, key_id: UUID
) -> None:
    faults.arrange("C_CreateObject", ATTRIBUTE_VALUE_INVALID)
    ref = KeyRef(key_id, 1)
    await hsm.generate(ref)
    assert not (await hsm.status()).data_objects
    with pytest.raises(NotSupported):
        await hsm.claims(key_id)
    with pytest.raises(NotSupported):
        await hsm.head(key_id)
    with pytest.raises(NotSupported):
        await hsm.set_claim(key_id, "uid", True)
    with pytest.raises(NotSupported):
        await hsm.set_head(key_id, b"head")
    assert await hsm.wrap(ref, token.mechanism, bytes(32))


# --- calls that hang --------------------------------------------------------------------------------------------------


async def test_an_unwrap_that_hangs_fails_its_caller_then_all_others_at_once_until_it_ends(
    start: Callable[..., HsmService], token: Token, faults: Faults, key_id: UUID
) -> None:
    service, ref, dek = start(), KeyRef(key_id, 1), secrets.token_bytes(32)
    await service.generate(ref)
    data = await service.wrap(ref, token.mechanism, dek)
    await service.close()

    service = start(deadline=1.0)
    try:
        await service.ready()
        faults.arrange("C_DecryptInit", "hang")
        with pytest.raises(HsmUnavailable, match="unknown"):
            await service.unwrap(ref, token.mechanism, data)
        with pytest.raises(HsmUnavailable, match="earlier call"):
            await service.unwrap(ref, token.mechanism, data)
        with pytest.raises(HsmUnavailable, match="earlier call"):
            await service.ready()
        faults.clear()
        await until_ready(service)
        assert await service.unwrap(ref, token.mechanism, data) == dek
    finally:
        faults.clear()
        await service.close()


@pytest.mark.parametrize("change", ["generate", "set_head", "set_claim", "destroy"])
async def test_a_change_whose_caller_gave_up_while_the_token_hung_is_not_made(
    start: Callable[..., HsmService], token: Token, faults: Faults, key_id: UUID, change: str
) -> None:
    service = start()
    await service.generate(KeyRef(key_id, 1))
    await service.close()

    service = start(slow_deadline=1.0)
    try:
        await service.ready()
        changes: dict[str, Callable[[], Awaitable[object]]] = {
            "generate": lambda: service.generate(KeyRef(key_id, 2)),
            "set_head": lambda: service.set_head(key_id, b"head"),
            "set_claim": lambda: service.set_claim(key_id, "uid", True),
            "destroy": lambda: service.destroy(key_id),
        }
        faults.arrange("C_FindObjectsInit", "hang")
        with pytest.raises(HsmUnavailable, match="unknown"):
            await changes[change]()
        faults.clear()
        await until_ready(service)
        assert await service.find(key_id) == (KeyRef(key_id, 1),)
        assert await service.head(key_id) is None
        assert await service.claims(key_id) == frozenset()
    finally:
        faults.clear()
        await service.close()


# --- a token that takes no change -------------------------------------------------------------------------------------


async def test_a_write_protected_token_is_used_and_not_changed(
    hsm: HsmService, start: Callable[..., HsmService], token: Token, faults: Faults, ref: KeyRef, wrapped: Wrapped
) -> None:
    await hsm.set_head(ref.key_id, b"head")
    await hsm.close()
    faults.arrange("C_OpenSession", TOKEN_WRITE_PROTECTED, once=True)  # to the read-write session, not to the other one
    service = start()
    try:
        await _used_and_not_changed(service, token, ref, wrapped, "write-protected")
    finally:
        await service.close()


@pytest.fixture
def small_disk(made: SoftHsm) -> Iterator[Path]:
    """The token's directory on a file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    tokens = made.directory / "tokens"
    away = tokens.rename(made.directory / "tokens.away")
    tokens.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(tokens)], check=True)
    try:
        shutil.copytree(away, tokens, dirs_exist_ok=True)
        yield tokens
    finally:
        subprocess.run(["umount", "--lazy", str(tokens)], check=True)


async def test_on_a_full_disk_keys_are_used_and_none_is_made(
    small_disk: Path, hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    await hsm.set_head(ref.key_id, b"head")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))

    for _ in range(2):
        await _used_and_not_changed(hsm, token, ref, wrapped, "full: make room")

    # SoftHSM would empty the token's own file at a login and could not write it anew.
    await hsm.close()
    fresh = token.start()
    for ask in (fresh.ready(), fresh.destroy(ref.key_id)):
        with pytest.raises(HsmUnavailable, match=r"cannot log in without writing, and .* full: make room"):
            await ask
    filler.unlink()
    await until_ready(fresh)
    await _changed(fresh, token, ref, wrapped)
    await fresh.close()


async def test_on_a_read_only_disk_keys_are_used_and_none_is_made(
    small_disk: Path, hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    await hsm.set_head(ref.key_id, b"head")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for _ in range(2):
        await _used_and_not_changed(hsm, token, ref, wrapped, "read-only")
    with pytest.raises(HsmUnavailable, match=r"cannot log in without writing, and .* read-only"):
        await hsm.destroy(ref.key_id)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    await until_ready(hsm)
    assert await hsm.find(ref.key_id) == (ref,)
    await _changed(hsm, token, ref, wrapped)


async def _used_and_not_changed(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped, why: str) -> None:
    with pytest.raises(ConfigInvalid, match=why):
        await hsm.generate(KeyRef(ref.key_id, 2))
    with pytest.raises(ConfigInvalid, match=why):
        await hsm.set_head(ref.key_id, b"new")
    with pytest.raises(ConfigInvalid, match=why):
        await hsm.set_claim(ref.key_id, "uid", True)
    assert await hsm.find(ref.key_id) == (ref,)
    assert await hsm.head(ref.key_id) == b"head"
    assert await hsm.claims(ref.key_id) == frozenset()
    assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek
    assert await hsm.wrap(ref, token.mechanism, wrapped.dek)
    assert (await hsm.status()).data_objects


async def _changed(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped) -> None:
    await hsm.generate(KeyRef(ref.key_id, 2))
    await hsm.set_head(ref.key_id, b"new")
    assert await hsm.head(ref.key_id) == b"new"
    assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek
    assert await hsm.destroy(ref.key_id) == 2
    assert await hsm.find(ref.key_id) == ()
