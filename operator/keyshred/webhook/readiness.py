"""Whether the process can serve: a connection may reach any of its workers, so all of them have to."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from keyshred.errors import KeyshredError, NotReady
from keyshred.observe.process import where
from keyshred.webhook.board import Board, now

log = logging.getLogger(__name__)

_TICK: Final = 0.1
"""Seconds between looks at the board; so often, at most, a worker tries itself, however many ask."""
_AGAIN: Final = 1.0
"""Seconds after which a worker that is not ready tries itself, though nobody asks."""


class Readiness:
    """One worker's part. `trial` does what the next request needs, and raises why it cannot."""

    def __init__(self, board: Board, worker: int, trial: Callable[[], Awaitable[None]], patience: float) -> None:
        """`patience`: seconds after which a worker that says nothing counts as not ready."""
        self._board = board
        self._worker = worker
        self._trial = trial
        self._patience = patience
        self._failure: KeyshredError | None = NotReady("this worker has just started: try again")
        self._stopping = False
        board.report(worker, now(), False)

    @property
    def draining(self) -> bool:
        """Whether this worker, or the whole process, was told to stop."""
        return self._stopping or self._board.draining

    @property
    def good(self) -> bool:
        """Whether the last trial succeeded."""
        return self._failure is None

    def stop(self) -> None:
        """This worker was told to stop."""
        self._stopping = True

    async def run(self) -> None:
        """Shows that the event loop turns, and answers for this worker, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            tasks.create_task(self._answer())

    async def check(self) -> None:
        """Returns if each worker that serves has tried itself after this call came, and could. Raises why not."""
        if self.draining:
            raise NotReady("this process was told to stop: use another one")
        asked = now()
        try:
            async with asyncio.timeout(self._patience):
                while not all(abs(verdict) >= asked for verdict in self._board.verdicts()):
                    self._board.ask(asked)
                    await asyncio.sleep(_TICK)
        except TimeoutError:
            raise NotReady("a worker of this process does not answer: try again") from None
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if not all(verdict > 0 for verdict in self._board.verdicts()):
            raise NotReady("another worker of this process is not ready: try again")

    async def _beat(self) -> None:
        while True:
            self._board.beat(self._worker)
            await asyncio.sleep(_TICK)

    async def _answer(self) -> None:
        tried = float("-inf")
        while True:
            if tried < self._board.asked or (self._failure is not None and tried < now() - _AGAIN):
                tried = now()
                await self._try()
                self._board.report(self._worker, tried, self._failure is None)
            await asyncio.sleep(_TICK)

    async def _try(self) -> None:
        try:
            await self._trial()
            failure = None
        except KeyshredError as error:
            failure = error
        except Exception as error:
            log.error("the trial failed: %s", where(error))
            failure = NotReady("keyshred failed to try itself")
        if (failure is None) != (self._failure is None):
            log.log(logging.INFO if failure is None else logging.WARNING, "%s", failure or "worker is ready")
        self._failure = failure
