"""Readiness of a process is that of all its workers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from keyshred.errors import HsmUnavailable, NotReady
from keyshred.webhook.board import Board
from keyshred.webhook.readiness import Readiness


class Worker:
    """One worker's readiness; `error` is why it cannot serve."""

    def __init__(self, board: Board, number: int, patience: float = 10.0) -> None:
        self.error: Exception | None = None
        self.trials = 0
        self.readiness = Readiness(board, number, self._trial, patience)

    async def _trial(self) -> None:
        self.trials += 1
        if self.error is not None:
            raise self.error

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.readiness.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_each_answers_for_all() -> None:
    board = Board(2)
    one, two = Worker(board, 0), Worker(board, 1)
    async with one.running(), two.running():
        await one.readiness.check()
        two.error = HsmUnavailable("away")
        with pytest.raises(NotReady, match="another worker"):
            await one.readiness.check()
        with pytest.raises(HsmUnavailable, match="away"):
            await two.readiness.check()
        two.error = None
        await one.readiness.check()


async def test_what_it_said_before_it_was_asked_counts_for_nothing() -> None:
    board = Board(1)
    one = Worker(board, 0)
    async with one.running():
        await one.readiness.check()
        tried = one.trials
        await one.readiness.check()
        assert one.trials > tried


async def test_it_tries_again_by_itself_until_it_can() -> None:
    board = Board(1)
    one = Worker(board, 0)
    one.error = RuntimeError("a bug")
    async with one.running():
        with pytest.raises(NotReady, match="failed to try itself"):
            await one.readiness.check()
        one.error = None
        while board.verdicts()[0] < 0:
            await asyncio.sleep(0.01)


async def test_many_who_ask_at_once_cost_no_more() -> None:
    board = Board(1)
    one = Worker(board, 0)
    async with one.running():
        await asyncio.gather(*(one.readiness.check() for _ in range(100)))
    assert one.trials <= 3


async def test_a_worker_that_says_nothing_counts_and_one_that_ended_does_not() -> None:
    board = Board(2)
    one = Worker(board, 0, patience=0.3)
    Worker(board, 1)  # and it never runs
    async with one.running():
        with pytest.raises(NotReady, match="does not answer"):
            await one.readiness.check()
        board.clear(1)
        await one.readiness.check()


async def test_nobody_is_ready_once_the_process_is_to_stop() -> None:
    board = Board(2)
    one, two = Worker(board, 0), Worker(board, 1)
    async with one.running(), two.running():
        assert not one.readiness.draining
        board.drain()
        for worker in (one, two):
            assert worker.readiness.draining
            with pytest.raises(NotReady, match="told to stop"):
                await worker.readiness.check()
