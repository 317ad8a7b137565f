"""One caller who asks without a pause, in a thread of its own."""

import threading
import time
from collections.abc import Callable
from itertools import groupby
from types import TracebackType
from typing import Self


class Asking:
    """Calls `ask` until the block ends, and keeps each answer's status with the time it came."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._answers: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            status = self._ask()
            self._answers.append((time.monotonic(), status))

    def count(self, status: int, until: float) -> int:
        """How many answers with this status came until then (monotonic seconds)."""
        return sum(s == status and at <= until for at, s in self._answers)

    def last(self, status: int) -> float:
        """When the last answer with this status came (monotonic seconds)."""
        return max(at for at, s in self._answers if s == status)

    def summary(self) -> str:
        """`200 ×12, 403 ×4, 410 ×40`."""
        return ", ".join(f"{status} ×{len(list(run))}" for status, run in groupby(s for _, s in self._answers))
