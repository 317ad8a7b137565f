"""What the processes of one webhook tell each other in shared memory: who serves, who is ready, and when to stop."""

import ctypes
import multiprocessing
import time
from typing import Final

_SPAWN: Final = multiprocessing.get_context("spawn")


class _Slot(ctypes.Structure):
    """One worker's. Each field has one writer and is one aligned word: it is never seen half written."""

    _fields_ = (("beats", ctypes.c_uint64), ("verdict", ctypes.c_double))


class Board:
    """One slot a worker. Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.

    Made by the parent, and inherited by the workers that it spawns.
    """

    def __init__(self, workers: int) -> None:
        self._slots = _SPAWN.RawArray(_Slot, workers)
        self._asked = _SPAWN.RawValue(ctypes.c_double, 0.0)
        self._draining = _SPAWN.RawValue(ctypes.c_bool, False)

    # --- the parent's side ----------------------------------------------------------------------------------------

    def clear(self, worker: int) -> None:
        """The worker ended: it counts no more."""
        self._slots[worker].verdict = 0.0

    def beats(self, worker: int) -> int:
        """Grows as long as the worker's event loop turns."""
        return int(self._slots[worker].beats)

    def drain(self) -> None:
        """The process was told to stop: nobody is ready from now on."""
        self._draining.value = True

    # --- the workers' side ----------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether the process was told to stop."""
        return bool(self._draining.value)

    @property
    def asked(self) -> float:
        """When somebody asked last whether all are ready."""
        return float(self._asked.value)

    def ask(self, when: float) -> None:
        """Makes every worker that serves try itself anew, unless it began to after `when`."""
        # Two who ask at once may overwrite each other: whoever waits asks again, until all have answered.
        if self.asked < when:
            self._asked.value = when

    def beat(self, worker: int) -> None:
        """The worker's event loop turns."""
        self._slots[worker].beats += 1

    def report(self, worker: int, began: float, ready: bool) -> None:
        """The worker serves; a trial that it began at `began` said whether it is ready."""
        self._slots[worker].verdict = began if ready else -began

    def verdicts(self) -> list[float]:
        """A number for each worker that serves: when its last trial began, negative if that failed."""
        return [slot.verdict for slot in self._slots if slot.verdict]


def now() -> float:
    """Seconds, comparable between the processes of this machine."""
    return time.monotonic()
