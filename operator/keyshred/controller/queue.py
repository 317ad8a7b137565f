"""A work queue by key: what is asked for twice is done once, and never two times at once for the same key."""

import asyncio
import heapq
import itertools
import logging
import traceback
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from keyshred.errors import Conflict, KeyshredError, Retry

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_FIRST_RETRY: Final = 0.5
_LAST_RETRY: Final = 30.0
"""Seconds before the first and between the last attempts; each wait is twice the one before."""


class WorkQueue(Generic[K]):
    """Calls `handle(key)` for each key when it is due.

    Retry, Conflict and everything that is no KeyshredError are tried again with growing pauses. Deny and Stop are not:
    the object says why, and the next change or resync looks again.
    """

    def __init__(self, handle: Callable[[K], Awaitable[None]], *, workers: int = 4) -> None:
        self._handle = handle
        self._workers = workers
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: K, after: float = 0.0) -> None:
        """Asks for the key in `after` seconds; an earlier date that it has already stands."""
        due = asyncio.get_running_loop().time() + after
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._wake.set()

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._next()
            self._running.add(key)
            try:
                await self._handle(key)
                self._failures.pop(key, None)
            except Exception as error:
                self._failed(key, error)
            finally:
                self._running.discard(key)
                if key in self._due:
                    # Asked for again meanwhile: its entry in the heap was passed over.
                    heapq.heappush(self._heap, (self._due[key], next(self._order), key))
                self._wake.set()

    async def _next(self) -> K:
        loop = asyncio.get_running_loop()
        while True:
            wait: float | None = None
            while self._heap:
                due, _, key = self._heap[0]
                if self._due.get(key) != due or key in self._running:
                    heapq.heappop(self._heap)  # moved to an earlier date, or waiting for the run that is under way
                elif due > loop.time():
                    wait = due - loop.time()
                    break
                else:
                    heapq.heappop(self._heap)
                    del self._due[key]
                    return key
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _failed(self, key: K, error: Exception) -> None:
        if isinstance(error, KeyshredError) and not isinstance(error, Retry | Conflict):
            log.warning("%s: %s: %s", key, type(error).__name__, error)
            self._failures.pop(key, None)
            return
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(_FIRST_RETRY * 2 ** min(failures - 1, 10), _LAST_RETRY)
        if isinstance(error, KeyshredError):
            log.warning("%s: %s: %s; again in %.1f s", key, type(error).__name__, error, pause)
        else:
            # Not ours, so its text stays out of the log: it could quote a value.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error(
                "%s: %s in %s:%s; again in %.1f s", key, type(error).__name__, frame.filename, frame.lineno, pause
            )
        self.add(key, pause)
