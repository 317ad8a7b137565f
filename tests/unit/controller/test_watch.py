"""What becomes of the watch when kopf fails."""

import asyncio

import pytest

from keyshred.controller import watch
from keyshred.controller.parts import Job, Kind
from keyshred.controller.watch import Watch
from tests.unit.fakes import FakeKube


class Failing(Watch):
    """kopf as it fails where a CRD goes while its watch is renewed; the second time it ends by itself."""

    runs = 0

    def _operate(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        loop.close()
        self.runs += 1
        if self.runs == 1:
            raise RuntimeError("404 page not found")

    async def _served(self) -> set[str]:
        return set()


async def test_kopf_is_started_anew_after_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_PAUSE", 0)
    asked: list[Job] = []
    failing = Failing(FakeKube().kube, lambda job, after: asked.append(job), "")
    async with asyncio.timeout(60):
        await failing.run()
    assert failing.runs == 2
    assert asked == [Job(Kind.RESYNC)] * 2
