"""Carries out what a survey asks for, one Secret at a time: seals what was there before, and releases what was sealed.

To seal, it never reads a Secret: a merge patch that changes nothing makes the API server send the Secret to the
webhook, and only metadata is asked for in return. Nothing is written down of how far it has come: what is left to do
is derived from the Secrets themselves, so a restart goes on where it was.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from keyshred.controller.parts import COUNT_SOON, Job, Kind, Parts
from keyshred.controller.release import release
from keyshred.errors import Conflict, Deny, KeyshredError, NotFound, Refused
from keyshred.kube.client import METADATA_ONLY, path
from keyshred.observe import metrics
from keyshred.policy.coverage import IMMUTABLE, Chore, Refusal, Task
from keyshred.policy.found import envelope_of

log = logging.getLogger(__name__)

_IN_FLIGHT: Final = 4
_FIRST_PAUSE: Final = 0.5
_LAST_PAUSE: Final = 30.0
"""Seconds after a failure whose cause may pass; each pause is twice the one before, until something succeeds."""


class Sweeper:
    """Works through the newest plan, at most `sweep_rate` Secrets a second and a few at a time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._todo: deque[Task] = deque()
        self._under_way: set[Task] = set()
        self._done: set[Task] = set()
        """Carried out, and the watch may not have shown it yet."""
        self._troubled: set[Task] = set()
        """They failed last time, so all others come first."""
        self._wake = asyncio.Event()
        self._not_before = 0.0
        self._failures = 0
        self.refusals: dict[tuple[str, str], Refusal] = {}
        self.trouble = ""
        """Why nothing goes on; empty: it does."""

    def plan(self, tasks: Sequence[Task]) -> None:
        """What is to be done from now on, and nothing else."""
        wanted = set(tasks)
        self._done &= wanted
        self._troubled &= wanted
        self.refusals = {k: refusal for k, refusal in self.refusals.items() if self._exists(*k)}
        todo = [t for t in tasks if t not in self._done and t not in self._under_way]
        self._todo = deque(sorted(todo, key=self._troubled.__contains__))
        if not wanted:
            self.trouble = ""
        if self._todo:
            self._wake.set()

    def forget_refusals(self) -> None:
        """The policy is another one: what was refused may pass now."""
        self.refusals.clear()
        self._done.clear()

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_IN_FLIGHT):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            if not self._todo:
                self._wake.clear()
                await self._wake.wait()
            await self._turn()
            if not self._todo:
                continue
            task = self._todo.popleft()
            self._under_way.add(task)
            try:
                await self._do(task)
            finally:
                self._under_way.discard(task)
            if not self._todo and not self._under_way:
                # What is left now, and what the watch has not shown yet, a new survey tells.
                self._parts.enqueue(Job(Kind.COUNT), COUNT_SOON)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        while (ahead := self._not_before - loop.time()) > 0:
            await asyncio.sleep(ahead)
        self._not_before = loop.time() + 1 / self._parts.settings.sweep_rate

    async def _do(self, task: Task) -> None:
        try:
            match task.chore:
                case Chore.SEAL:
                    await self._seal(task)
                case Chore.RELEASE:
                    await release(self._parts, task)
                case Chore.PROBE:
                    self._refused(task, IMMUTABLE if await self._is_immutable(task) else "")
        except (NotFound, Conflict):
            pass  # it went, or somebody else wrote: the next survey looks again
        except Refused as error:
            # Not by keyshred's webhook: a right that is not there yet, or somebody else's rule.
            if error.reason:
                self._refused(task, error.reason)
            else:
                self._failed(task, str(error))
        except Deny as error:
            self._refused(task, str(error))
        except KeyshredError as error:
            self._failed(task, str(error))
        except Exception as error:
            # Its text stays out: it could quote a value.
            self._failed(task, type(error).__name__)
        else:
            metrics.SWEEP.labels("done").inc()
            self._done.add(task)
            self._troubled.discard(task)
            self._failures, self.trouble = 0, ""

    async def _seal(self, task: Task) -> None:
        answer = await self._parts.kube.patch(_path(task), {}, accept=METADATA_ONLY)
        if envelope_of(answer["metadata"]) is not None:
            return
        if not await self._is_immutable(task):
            raise Refused(
                f"Secret {task.namespace}/{task.name} was written and is not sealed: the API server or the webhook "
                "does not know the namespace's label yet, or the webhook configuration is not there"
            )
        self._refused(task, IMMUTABLE)

    async def _is_immutable(self, task: Task) -> bool:
        """By what the API server says to a dry run: an immutable Secret cannot become mutable, a mutable one is so."""
        try:
            await self._parts.kube.patch(
                _path(task), {"immutable": False}, accept=METADATA_ONLY, params={"dryRun": "All"}
            )
        except Refused as error:
            return "immutable" in error.fields
        return False

    def _refused(self, task: Task, reason: str) -> None:
        metrics.SWEEP.labels("refused").inc()
        self.refusals[task.namespace, task.name] = Refusal(task.version, reason)

    def _exists(self, namespace: str, name: str) -> bool:
        return name in (self._parts.index.place(namespace).secrets or ())

    def _failed(self, task: Task, trouble: str) -> None:
        metrics.SWEEP.labels("failed").inc()
        log.warning("%s of Secret %s/%s: %s", task.chore, task.namespace, task.name, trouble)
        self.trouble = trouble
        self._troubled.add(task)
        pause = min(_FIRST_PAUSE * 2 ** min(self._failures, 10), _LAST_PAUSE)
        self._failures += 1
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + pause)


def _path(task: Task) -> str:
    return path("secrets", task.name, namespace=task.namespace)
