"""The queue before the token: order, deadlines, cancellation, a token that hangs. The device here is a puppet."""

import asyncio
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import pytest

from keyshred.envelope.format import Mechanism
from keyshred.errors import CannotOpen, HsmBusy, HsmUnavailable, KeyMissing, TokenBroken
from keyshred.hsm.interface import KeyRef, Survey, TokenStatus
from keyshred.hsm.service import HsmService

REF = KeyRef(uuid4(), 1)
GCM = Mechanism.AES_GCM
BREAK, MISS = 998, 999
"""Key versions whose wrap fails."""


class Puppet:
    """Records what it is asked; holds still in `check_value` until told to go on."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.closed = False
        self.wanted: Callable[[], bool] = lambda: True
        self.wanted_at_the_end: list[bool] = []

    def status(self) -> TokenStatus:
        self._note("status")
        return TokenStatus("label", "serial", "manufacturer", "model", "1.0", GCM, software=False, data_objects=False)

    def find(self, key_id: UUID) -> tuple[KeyRef, ...]:
        self._note("find")
        return ()

    def survey(self) -> Survey:
        self._note("survey")
        return Survey({}, {}, {})

    def generate(self, ref: KeyRef) -> None:
        self._note("generate")

    def check_value(self, ref: KeyRef) -> bytes:
        self._note("check_value")
        self.held.set()
        assert self.go_on.wait(10)
        self.wanted_at_the_end.append(self.wanted())
        return bytes(16)

    def wrap(self, ref: KeyRef, mechanism: Mechanism, dek: bytes) -> bytes:
        self._note("wrap")
        if ref.version == BREAK:
            raise RuntimeError(f"a library that quotes {dek!r}")
        if ref.version == MISS:
            try:
                raise RuntimeError(f"a library that quotes {dek!r}")
            except RuntimeError as failure:
                raise KeyMissing("the token does not hold it") from failure
        return dek + ref.cka_id

    def unwrap(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bytes:
        self._note("unwrap")
        raise CannotOpen

    def destroy(self, key_id: UUID) -> int:
        self._note("destroy")
        return 1

    def opens_under_any_key(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bool:
        self._note("opens_under_any_key")
        return False

    def claims(self, key_id: UUID) -> frozenset[str]:
        self._note("claims")
        return frozenset({"uid"})

    def set_claim(self, key_id: UUID, cluster_uid: str, claimed: bool) -> None:
        self._note("set_claim")

    def head(self, key_id: UUID) -> bytes | None:
        self._note("head")
        return b"head"

    def set_head(self, key_id: UUID, head: bytes) -> None:
        self._note("set_head")

    def close(self) -> None:
        self.closed = True

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())


@pytest.fixture
def puppet() -> Puppet:
    return Puppet()


Start = Callable[..., HsmService]


@pytest.fixture
async def start(puppet: Puppet) -> AsyncIterator[Start]:
    started: list[HsmService] = []

    def start(**options: float) -> HsmService:
        started.append(HsmService(puppet, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    puppet.go_on.set()
    for service in started:
        await service.close()


async def _hold(service: HsmService, puppet: Puppet) -> "asyncio.Task[bytes]":
    """A call that the token is at, and stays at."""
    task = asyncio.create_task(service.check_value(REF))
    while not puppet.held.is_set():
        await asyncio.sleep(0.001)
    return task


async def test_everything_runs_in_one_thread_that_is_not_the_loops(start: Start, puppet: Puppet) -> None:
    service = start()
    puppet.go_on.set()
    await asyncio.gather(
        service.status(),
        service.find(REF.key_id),
        service.generate(REF),
        service.check_value(REF),
        service.destroy(REF.key_id),
        service.opens_under_any_key(REF, GCM, b""),
        service.claims(REF.key_id),
        service.set_claim(REF.key_id, "uid", True),
        service.head(REF.key_id),
        service.set_head(REF.key_id, b"head"),
        *(service.wrap(REF, GCM, bytes(32)) for _ in range(50)),
    )
    assert len(puppet.threads) == 1
    assert threading.get_ident() not in puppet.threads


async def test_each_caller_gets_its_own_answer(start: Start) -> None:
    service = start()
    answers = await asyncio.gather(*(service.wrap(REF, GCM, b"%032d" % n) for n in range(200)))
    assert answers == [b"%032d" % n + REF.cka_id for n in range(200)]
    with pytest.raises(CannotOpen):
        await service.unwrap(REF, GCM, b"")


async def test_a_full_queue_is_busy_at_once_and_free_again_afterwards(start: Start, puppet: Puppet) -> None:
    service = start(queue_limit=2)
    held = await _hold(service, puppet)
    waiting = asyncio.create_task(service.find(REF.key_id))
    await asyncio.sleep(0)
    with pytest.raises(HsmBusy):
        await service.find(REF.key_id)
    puppet.go_on.set()
    await asyncio.gather(held, waiting)
    await service.find(REF.key_id)


async def test_work_whose_deadline_passed_in_the_queue_is_never_done(start: Start, puppet: Puppet) -> None:
    service = start(deadline=10.0, slow_deadline=0.05)
    held = await _hold(service, puppet)
    with pytest.raises(HsmUnavailable, match="not made"):
        await service.destroy(REF.key_id)
    puppet.go_on.set()
    await held
    await service.find(REF.key_id)
    assert puppet.calls == ["check_value", "find"]


async def test_a_token_that_hangs_fails_its_caller_then_all_others_at_once_until_it_answers(
    start: Start, puppet: Puppet
) -> None:
    service = start(deadline=0.05)
    held = await _hold(service, puppet)
    with pytest.raises(HsmUnavailable, match="unknown"):
        await held
    with pytest.raises(HsmUnavailable, match="earlier call"):
        await service.find(REF.key_id)
    assert puppet.calls == ["check_value"]
    puppet.go_on.set()
    await _answering(service)


async def test_the_device_knows_whether_its_caller_still_waits(start: Start, puppet: Puppet) -> None:
    service = start(deadline=0.05)
    held = await _hold(service, puppet)
    with pytest.raises(HsmUnavailable, match="unknown"):
        await held
    puppet.go_on.set()
    await _answering(service)

    await service.check_value(REF)
    assert puppet.wanted_at_the_end == [False, True]
    assert not puppet.wanted()


async def test_a_head_that_is_too_long_does_not_reach_the_token(start: Start, puppet: Puppet) -> None:
    service = start()
    with pytest.raises(ValueError, match="512"):
        await service.set_head(REF.key_id, bytes(513))
    assert not puppet.calls


async def test_work_of_a_cancelled_caller_is_dropped(start: Start, puppet: Puppet) -> None:
    service = start()
    held = await _hold(service, puppet)
    cancelled = asyncio.create_task(service.destroy(REF.key_id))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    puppet.go_on.set()
    await held
    await service.find(REF.key_id)
    assert puppet.calls == ["check_value", "find"]


async def test_a_caller_that_is_cancelled_at_work_disturbs_nobody(start: Start, puppet: Puppet) -> None:
    service = start()
    held = await _hold(service, puppet)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    puppet.go_on.set()
    assert await service.wrap(REF, GCM, bytes(32)) == bytes(32) + REF.cka_id


@pytest.mark.parametrize(("version", "error"), [(BREAK, TokenBroken), (MISS, KeyMissing)])
async def test_no_error_carries_the_threads_frames_or_quotes_a_dek(
    start: Start, version: int, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    service, dek = start(), b"a-DEK-that-nobody-is-to-see-here"
    with pytest.raises(error) as caught:
        await service.wrap(KeyRef(REF.key_id, version), GCM, dek)

    frames = set()
    link: BaseException | None = caught.value
    while link is not None:
        frames |= {frame.f_code.co_qualname for frame, _ in traceback.walk_tb(link.__traceback__)}
        link = link.__context__ or link.__cause__
    assert {"HsmService.wrap"} < frames
    assert not {name for name in frames if "Puppet" in name or "_work" in name}
    assert dek.decode() not in f"{caught.value} {caplog.text}"


async def test_close_finishes_what_waits_and_takes_no_more(start: Start, puppet: Puppet) -> None:
    service = start()
    held = await _hold(service, puppet)
    waiting = asyncio.create_task(service.find(REF.key_id))
    await asyncio.sleep(0)
    closing = asyncio.create_task(service.close())
    await asyncio.sleep(0)
    with pytest.raises(HsmUnavailable, match="closed"):
        await service.find(REF.key_id)
    puppet.go_on.set()
    await asyncio.gather(held, waiting, closing)
    assert puppet.calls == ["check_value", "find"]
    assert puppet.closed


async def test_close_gives_up_on_a_token_that_hangs(start: Start, puppet: Puppet) -> None:
    service = start(deadline=0.02, slow_deadline=0.02)
    held = await _hold(service, puppet)
    await service.close()
    assert not puppet.closed
    with pytest.raises(HsmUnavailable):
        await held


async def _answering(service: HsmService) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await service.find(REF.key_id)
                return
            except HsmUnavailable:
                await asyncio.sleep(0.001)


async def test_a_call_that_never_comes_back_is_given_up_in_the_end(puppet: Puppet) -> None:
    service = HsmService(puppet, deadline=0.01, slow_deadline=0.02)
    watch = asyncio.create_task(service.until_hopeless())
    await asyncio.sleep(0.3)
    assert not watch.done(), "nothing hangs"
    with pytest.raises(HsmUnavailable):
        await service.check_value(REF)
    try:
        with pytest.raises(HsmUnavailable, match="does not come back"):
            await asyncio.wait_for(watch, 60)
    finally:
        puppet.go_on.set()
        await service.close()
