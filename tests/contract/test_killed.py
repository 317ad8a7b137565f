"""A process that is killed while SoftHSM changes its files, at each point of it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from uuid import UUID

import pytest

from keyshred.errors import TokenBroken
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from tests.contract.conftest import SOFTHSM, Token, Wrapped
from tests.contract.faults import Faults
from tests.contract.test_loss import until_ready

pytestmark = SOFTHSM

SIGKILL = -9
Kill = Callable[[int], int]
Victims = Callable[..., AbstractContextManager[Kill]]


@pytest.fixture
def victims(token: Token, faults: Faults) -> Victims:
    """Processes that do one thing, each killed at a point; they answer with their exit status, 0 past the last one."""

    @contextmanager
    def start(method: str, *arguments: object) -> Iterator[Kill]:
        command = [sys.executable, "-m", "tests.contract.victim", token.uri, method, *map(str, arguments)]
        with subprocess.Popen(
            command, env=faults.preloaded(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin and process.stdout
            to, answers = process.stdin, process.stdout

            def kill(point: int) -> int:
                print(point, file=to, flush=True)
                return int(answers.readline())

            yield kill
            to.close()

    return start


async def test_the_head_is_the_old_one_or_the_new_one(
    hsm: HsmService, token: Token, key_id: UUID, victims: Victims
) -> None:
    heads: list[bytes | None] = []
    with victims("set_head", key_id, b"new".hex()) as kill:
        for point in count(1):
            if heads[-1:] != [b"old"]:
                await hsm.set_head(key_id, b"old")
            status = kill(point)
            heads.append(await hsm.head(key_id))
            if status != SIGKILL:
                break

    assert status == 0
    assert len(heads) > 30
    assert set(heads) == {b"old", b"new"} == {heads[0], heads[-1]}
    await hsm.set_head(key_id, b"last")
    assert len(token.ask_stranger("notes", key_id)) == 1


async def test_a_claim_is_there_or_not(hsm: HsmService, key_id: UUID, victims: Victims) -> None:
    claims: list[frozenset[str]] = []
    with victims("set_claim", key_id, "uid", True) as kill:
        for point in count(1):
            if claims[-1:] != [frozenset()]:
                await hsm.set_claim(key_id, "uid", False)
            status = kill(point)
            claims.append(await hsm.claims(key_id))
            if status != SIGKILL:
                break

    assert status == 0
    assert len(claims) > 30
    assert set(claims) == {frozenset(), frozenset({"uid"})} == {claims[0], claims[-1]}


async def test_a_key_is_there_or_not_and_one_without_a_value_is_told_from_a_good_one(
    hsm: HsmService, token: Token, key_id: UUID, victims: Victims
) -> None:
    ref, ends = KeyRef(key_id, 1), []
    with victims("generate", key_id) as kill:
        # SoftHSM writes the attributes one by one: the beginning is the same over and over.
        for point in (*range(1, 95, 13), *range(96, 120)):
            status = kill(point)
            ends.append(await _end(hsm, token, ref))
            assert await hsm.destroy(key_id) == (ends[-1] != "none")
            if status != SIGKILL:
                break

    assert status == 0
    assert set(ends) == {"none", "without a value", "good"} == {ends[0], ends[-1], "without a value"}
    await hsm.generate(ref)


async def _end(hsm: HsmService, token: Token, ref: KeyRef) -> str:
    if await hsm.find(ref.key_id) == ():
        return "none"
    try:
        await hsm.check_value(ref)
    except TokenBroken as broken:
        assert "cut off" in str(broken)
        with pytest.raises(TokenBroken):
            await hsm.wrap(ref, token.mechanism, bytes(32))
        return "without a value"
    assert await hsm.unwrap(ref, token.mechanism, await hsm.wrap(ref, token.mechanism, bytes(32))) == bytes(32)
    return "good"


async def test_a_key_that_is_being_destroyed_is_whole_or_gone(
    hsm: HsmService, token: Token, key_id: UUID, victims: Victims
) -> None:
    ref, found = KeyRef(key_id, 1), list[tuple[KeyRef, ...]]()
    with victims("destroy", key_id) as kill:
        for point in count(1):
            if await hsm.find(key_id) == ():
                await hsm.generate(ref)
                wrapped = await hsm.wrap(ref, token.mechanism, bytes(32))
            status = kill(point)
            await hsm.close()
            hsm = token.start()
            await until_ready(hsm)
            found.append(await hsm.find(key_id))
            if found[-1]:
                assert await hsm.unwrap(ref, token.mechanism, wrapped) == bytes(32)
            if status != SIGKILL:
                break
    await hsm.close()

    assert status == 0
    assert set(found) == {(ref,), ()} == {found[0], found[-1]}


async def test_a_token_whose_own_file_a_login_left_empty_is_whole_again(
    hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped, victims: Victims
) -> None:
    empty = 0
    await hsm.close()
    with victims("status") as kill:
        for point in count(1):
            status = kill(point)
            assert token.made
            (own,) = token.made.directory.glob("tokens/*/token.object")
            empty += not own.stat().st_size
            service = token.start()
            await until_ready(service)
            assert await service.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek
            await service.close()
            if status != SIGKILL:
                break

    assert status == 0
    assert empty
