"""The work queue: once per key, never twice at once, and again where it makes sense."""

import asyncio
from collections.abc import Callable

import pytest

from keyshred.controller import queue as queue_module
from keyshred.controller.queue import WorkQueue
from keyshred.errors import Conflict, HsmUnavailable, KeyMissing, Refused


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_FIRST_RETRY", 0.001)


class Recorder:
    """A handler that notes its calls, and fails or waits as told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.now = 0
        self.most = 0
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Event()

    async def __call__(self, key: str) -> None:
        self.calls.append(key)
        self.changed.set()
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.now -= 1

    async def until(self, what: Callable[[], bool]) -> None:
        while not what():
            self.changed.clear()
            await self.changed.wait()


async def run(queue: WorkQueue[str], recorder: Recorder, what: Callable[[], bool]) -> None:
    task = asyncio.create_task(queue.run())
    await asyncio.wait_for(recorder.until(what), 60)
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_asked_for_twice_is_done_once() -> None:
    recorder = Recorder()
    queue = WorkQueue[str](recorder)
    for key in ("a", "a", "b", "a"):
        queue.add(key)
    await run(queue, recorder, lambda: len(recorder.calls) >= 2)
    assert recorder.calls == ["a", "b"]


async def test_an_earlier_date_wins_and_a_later_one_does_not() -> None:
    recorder = Recorder()
    queue = WorkQueue[str](recorder)
    queue.add("a", 3600)
    queue.add("a", 0)
    queue.add("a", 1800)
    await run(queue, recorder, lambda: bool(recorder.calls))
    assert recorder.calls == ["a"]


async def test_what_is_asked_for_while_it_runs_runs_again_afterwards() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    queue = WorkQueue[str](recorder)
    queue.add("a")
    task = asyncio.create_task(queue.run())
    await recorder.until(lambda: recorder.calls == ["a"])
    queue.add("a")
    for _ in range(10):
        await asyncio.sleep(0)
    assert recorder.calls == ["a"]
    recorder.gate.set()
    await recorder.until(lambda: recorder.calls == ["a", "a"])
    assert recorder.most == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_different_keys_run_side_by_side() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    queue = WorkQueue[str](recorder, workers=2)
    for key in ("a", "b", "c"):
        queue.add(key)
    await run(queue, recorder, lambda: len(recorder.calls) >= 2)
    assert (recorder.calls, recorder.most) == (["a", "b"], 2)


@pytest.mark.parametrize("error", [HsmUnavailable("away"), Conflict("moved"), ValueError("a secret")])
async def test_what_may_pass_is_tried_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.failures = [error, error]
    queue = WorkQueue[str](recorder)
    queue.add("a")
    await run(queue, recorder, lambda: len(recorder.calls) >= 3)
    assert recorder.calls == ["a"] * 3
    assert "a secret" not in caplog.text
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("error", [KeyMissing("gone"), Refused("no")])
async def test_what_does_not_pass_is_left_to_the_next_resync(error: Exception) -> None:
    recorder = Recorder()
    recorder.failures = [error]
    queue = WorkQueue[str](recorder, workers=1)
    queue.add("a")
    queue.add("b", 0.05)
    await run(queue, recorder, lambda: "b" in recorder.calls)
    assert recorder.calls == ["a", "b"]
