"""A token that goes away, comes back, hangs or refuses the PIN."""

import asyncio
import ctypes
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from keyshred.errors import CannotOpen, ConfigInvalid, HsmBusy, HsmUnavailable, KeyMissing, PinRefused
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from tests.cluster.softhsm import MODULE, SoftHsm
from tests.contract.conftest import Token, Wrapped
from tests.contract.stranger import token_of

OPERATIONS = (
    *("status", "wrap", "unwrap", "check_value", "find", "opens_under_any_key", "claims", "head"),
    *("generate", "destroy", "set_claim", "set_head"),
)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_absent_token_is_unavailable_never_empty_and_comes_back(
    hsm: HsmService, token: Token, made: SoftHsm, ref: KeyRef, wrapped: Wrapped, operation: str
) -> None:
    made.take_away()
    for _ in range(3):
        with pytest.raises(HsmUnavailable):
            await _calls(hsm, token, ref, wrapped)[operation]()
    made.give_back()

    await until_ready(hsm)
    assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek
    assert await hsm.find(ref.key_id) == (ref,)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_token_that_was_away_for_a_moment_is_used_again_within_the_first_call(
    hsm: HsmService, token: Token, made: SoftHsm, ref: KeyRef, wrapped: Wrapped, operation: str
) -> None:
    made.take_away()
    made.give_back()
    await _calls(hsm, token, ref, wrapped)[operation]()
    if operation != "destroy":
        assert ref in await hsm.find(ref.key_id)
        assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek


# python-pkcs11 ends a search that could not begin, in a __del__ that nobody can catch from.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("loss", ["C_CloseAllSessions", "C_Logout", "C_Finalize"])
async def test_a_lost_session_or_login_is_made_anew_within_the_call(
    hsm: HsmService, token: Token, made: SoftHsm, ref: KeyRef, wrapped: Wrapped, loss: str, operation: str
) -> None:
    # Sessions and login belong to the process: anybody in it can end the service's, whose thread is idle meanwhile.
    found = token_of(token.uri)
    argument = {"C_CloseAllSessions": found.slot.slot_id, "C_Logout": found.open().handle, "C_Finalize": 0}[loss]  # type: ignore[attr-defined]
    assert getattr(ctypes.CDLL(str(MODULE)), loss)(ctypes.c_ulong(argument)) == 0

    await _calls(hsm, token, ref, wrapped)[operation]()
    if operation != "destroy":
        assert ref in await hsm.find(ref.key_id)
        assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek


async def test_a_key_that_the_token_does_not_show_although_its_file_is_there_is_not_missing(
    hsm: HsmService, token: Token, made: SoftHsm, ref: KeyRef, wrapped: Wrapped
) -> None:
    # SoftHSM reads the files once: one that was away at that moment stays unseen.
    await hsm.close()
    (file,) = (path for path in made.directory.glob("tokens/*/*.object") if path.name != "token.object")
    away = file.rename(made.directory / "away")
    service = token.start()
    try:
        with pytest.raises(KeyMissing):
            await service.check_value(ref)
        away.rename(file)
        assert await service.find(ref.key_id) == (ref,)
        assert await service.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek
    finally:
        await service.close()


async def test_a_service_may_start_before_its_token(token: Token, made: SoftHsm, key_id: UUID) -> None:
    made.take_away()
    service = token.start()
    try:
        with pytest.raises(HsmUnavailable):
            await service.ready()
        made.give_back()
        await until_ready(service)
        await service.generate(KeyRef(key_id, 1))
    finally:
        await service.close()


async def test_a_wrong_pin_is_tried_once_until_the_file_changes(token: Token, made: SoftHsm) -> None:
    right = made.pin_file.read_text()
    service = token.start()
    try:
        made.pin_file.write_text("not-the-pin")
        with pytest.raises(PinRefused):
            await service.ready()
        assert _wrong_pin_was_tried(token)

        # A login of somebody else takes the token's note of it back, and so it would show a second try.
        _log_in_elsewhere(token, made, right)
        assert not _wrong_pin_was_tried(token)
        made.pin_file.write_text("not-the-pin")
        await asyncio.sleep(0.3)  # past the pause before a further attempt to open
        with pytest.raises(PinRefused):
            await service.ready()
        assert not _wrong_pin_was_tried(token)

        made.pin_file.write_text(right + "\n")
        await until_ready(service, PinRefused)
    finally:
        await service.close()


async def test_the_next_process_does_not_try_a_refused_pin_again(token: Token, made: SoftHsm, tmp_path: Path) -> None:
    right, refused_pins = made.pin_file.read_text(), tmp_path / "refused"
    made.pin_file.write_text("not-the-pin")
    for _ in range(2):
        service = token.start(refused_pins=refused_pins)
        with pytest.raises(PinRefused):
            await service.ready()
        await service.close()
        tried = _wrong_pin_was_tried(token)
        _log_in_elsewhere(token, made, right)
        made.pin_file.write_text("not-the-pin")

    assert not tried
    assert b"not-the-pin" not in refused_pins.read_bytes()
    made.pin_file.write_text(right)
    service = token.start(refused_pins=refused_pins)
    await service.ready()
    await service.close()


async def test_a_pin_file_that_is_not_there_is_a_setting_to_correct(token: Token, made: SoftHsm) -> None:
    made.pin_file.unlink()
    service = token.start()
    with pytest.raises(ConfigInvalid, match="PIN file"):
        await service.ready()
    await service.close()


async def test_a_full_queue_says_so_at_once_and_serves_the_rest(token: Token, key_id: UUID) -> None:
    service = token.start(queue_limit=4)
    try:
        ref = KeyRef(key_id, 1)
        await service.generate(ref)
        calls = [service.wrap(ref, token.mechanism, bytes(32)) for _ in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await service.close()

    assert [isinstance(answer, bytes) for answer in answers] == [True] * 4 + [False] * 6
    assert all(isinstance(answer, HsmBusy) for answer in answers[4:])


async def test_a_token_that_hangs_costs_one_deadline_and_then_nothing(
    token: Token, made: SoftHsm, key_id: UUID
) -> None:
    service = token.start(slow_deadline=1.0)
    try:
        ref = KeyRef(key_id, 1)
        await service.ready()
        await service.generate(ref)
        with _files_locked(made):
            with pytest.raises(HsmUnavailable, match="unknown"):
                await service.generate(KeyRef(key_id, 2))
            with pytest.raises(HsmUnavailable, match="earlier call"):
                await service.wrap(ref, token.mechanism, bytes(32))
        await until_ready(service)
        assert await service.wrap(ref, token.mechanism, bytes(32))
    finally:
        await service.close()


async def test_another_key_of_the_token_does_not_disturb_the_search_for_one_that_opens(
    hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    other = uuid4()
    token.ask_stranger("generate", other, 1)
    try:
        assert await hsm.opens_under_any_key(ref, token.mechanism, wrapped.data)
        changed = wrapped.data[:-1] + bytes([wrapped.data[-1] ^ 1])
        assert not await hsm.opens_under_any_key(ref, token.mechanism, changed)
        with pytest.raises(CannotOpen):
            await hsm.unwrap(ref, token.mechanism, changed)
    finally:
        token.ask_stranger("destroy", other)


def _calls(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped) -> dict[str, Callable[[], Awaitable[object]]]:
    """OPERATIONS, as the key `ref` and its DEK take them."""
    return {
        "status": hsm.status,
        "wrap": lambda: hsm.wrap(ref, token.mechanism, wrapped.dek),
        "unwrap": lambda: hsm.unwrap(ref, token.mechanism, wrapped.data),
        "check_value": lambda: hsm.check_value(ref),
        "find": lambda: hsm.find(ref.key_id),
        "generate": lambda: hsm.generate(KeyRef(ref.key_id, 2)),
        "destroy": lambda: hsm.destroy(ref.key_id),
        "claims": lambda: hsm.claims(ref.key_id),
        "head": lambda: hsm.head(ref.key_id),
        "set_claim": lambda: hsm.set_claim(ref.key_id, "uid", True),
        "set_head": lambda: hsm.set_head(ref.key_id, b"head"),
        "opens_under_any_key": lambda: hsm.opens_under_any_key(ref, token.mechanism, wrapped.data),
    }


async def until_ready(service: HsmService, passing: type[Exception] = HsmUnavailable) -> None:
    """The service opens a lost token after a pause, which grows with each attempt."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await service.ready()
            except passing:
                await asyncio.sleep(0.05)


def _wrong_pin_was_tried(token: Token) -> bool:
    return bool(token.ask_stranger("wrong_pin_was_tried"))


def _log_in_elsewhere(token: Token, made: SoftHsm, right: str) -> None:
    made.pin_file.write_text(right)
    token.ask_stranger("count")


@contextmanager
def _files_locked(made: SoftHsm) -> Iterator[None]:
    """Another process holds SoftHSM's file locks, so that a write hangs."""
    lock = "import fcntl,sys;files=[open(f,'r+b') for f in sys.argv[1:]];[fcntl.lockf(f,fcntl.LOCK_EX) for f in files];"
    files = [str(file) for file in (made.directory / "tokens").glob("*/*")]
    with subprocess.Popen(
        [sys.executable, "-c", lock + "print(flush=True);sys.stdin.read()", *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdin and holder.stdout
        holder.stdout.readline()
        yield
        holder.stdin.close()
