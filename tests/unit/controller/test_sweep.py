"""The sweep: what it does with each answer, when it pauses, and what it does not do twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keyshred.controller import sweep as module
from keyshred.controller.parts import Job, Kind, Parts
from keyshred.controller.sweep import Sweeper
from keyshred.errors import Conflict, KubeUnavailable, Refused
from keyshred.kube.client import METADATA_ONLY
from keyshred.policy.coverage import IMMUTABLE, Chore, Place, Refusal, Task
from tests.integration.controller.lab import sealed
from tests.unit.fakes import KEY_A, Json, settle

SEALED: Json = {}
"""Stands for the metadata of that Secret with an envelope of its own."""
PLAIN: Json = {"metadata": {}}
STAYS_IMMUTABLE = Refused("422", fields=frozenset({"immutable"}))


class Secrets:
    """Answers to patches by name of the Secret; the last one stays. Dry runs have their own."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Json | Exception]] = {}
        self.probes: dict[str, Exception] = {}
        self.patched: list[str] = []

    async def patch(self, url: str, body: Json, *, accept: str, params: Mapping[str, str] | None = None) -> Json:
        name = url.rpartition("/")[2]
        assert accept == METADATA_ONLY
        if params:
            assert (body, params) == ({"immutable": False}, {"dryRun": "All"})
            if name in self.probes:
                raise self.probes[name]
            return PLAIN
        assert body == {}
        self.patched.append(name)
        answers = self.answers.get(name, [SEALED])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return sealed("ns", name, str(KEY_A)) if answer is SEALED else answer


class World:
    """A sweeper over them, and the jobs that it asks for."""

    def __init__(self) -> None:
        self.secrets = Secrets()
        self.jobs: list[Job] = []
        self.there = {"s"}
        parts: Any = SimpleNamespace(
            kube=self.secrets,
            settings=SimpleNamespace(sweep_rate=1e6),
            enqueue=lambda job, _: self.jobs.append(job),
            index=SimpleNamespace(place=lambda _: Place({n: None for n in self.there}, None)),  # type: ignore[misc]
        )
        self.sweeper = Sweeper(cast(Parts, parts))

    async def work(self, *tasks: Task) -> None:
        self.sweeper.plan(tasks)
        await self.rest()

    async def rest(self) -> None:
        for _ in range(20):
            await settle()
            await asyncio.sleep(0.0005)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.0)
    made = World()
    task = asyncio.create_task(made.sweeper.run())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def task(name: str, chore: Chore = Chore.SEAL, version: str = "1") -> Task:
    return Task(chore, "ns", name, version, "rk")


async def test_each_is_patched_once_and_then_all_is_counted_again(world: World) -> None:
    tasks = [task(f"s{n}") for n in range(10)]
    await world.work(*tasks)
    assert sorted(world.secrets.patched) == sorted(t.name for t in tasks)
    assert Job(Kind.COUNT) in world.jobs
    # The watch is late: the same plan again.
    await world.work(*tasks)
    assert len(world.secrets.patched) == 10
    await world.work(task("s1", version="2"))
    assert world.secrets.patched[10:] == ["s1"]


async def test_an_immutable_one_is_told_by_a_dry_run(world: World) -> None:
    world.secrets.answers["s"] = [PLAIN]
    world.secrets.probes["s"] = STAYS_IMMUTABLE
    await world.work(task("s"))
    assert world.sweeper.refusals == {("ns", "s"): Refusal("1", IMMUTABLE)}
    assert world.sweeper.trouble == ""


async def test_what_comes_back_unsealed_is_trouble(world: World) -> None:
    world.secrets.answers["s"] = [PLAIN]
    await world.work(task("s"))
    assert "does not know the namespace's label yet" in world.sweeper.trouble and not world.sweeper.refusals
    world.secrets.answers["s"] = [SEALED]
    await world.work(task("s"))
    assert world.sweeper.trouble == ""


async def test_what_our_webhook_refuses_is_remembered_with_its_reason(world: World) -> None:
    world.secrets.answers["s"] = [Refused("HTTP 403", reason="too large")]
    await world.work(task("s"))
    assert world.sweeper.refusals == {("ns", "s"): Refusal("1", "too large")}
    world.sweeper.plan([])
    assert world.sweeper.refusals
    world.there.clear()
    world.sweeper.plan([])
    assert not world.sweeper.refusals


async def test_under_another_policy_all_is_tried_again(world: World) -> None:
    world.secrets.answers["s"] = [PLAIN]
    world.secrets.probes["s"] = STAYS_IMMUTABLE
    await world.work(task("s"))
    await world.work(task("s"))
    assert world.secrets.patched == ["s"]
    world.sweeper.forget_refusals()
    assert not world.sweeper.refusals
    await world.work(task("s"))
    assert world.secrets.patched == ["s", "s"] and world.sweeper.refusals


async def test_what_failed_comes_last(world: World) -> None:
    world.secrets.answers["bad"] = [KubeUnavailable("HTTP 500")]
    await world.work(task("bad"))
    world.sweeper.plan([task("bad"), task("good"), task("better")])
    await world.rest()
    assert world.secrets.patched == ["bad", "good", "better", "bad"]


@pytest.mark.parametrize("error", [KubeUnavailable("HTTP 503: try again"), Refused("HTTP 403"), ValueError("odd")])
async def test_what_may_pass_is_trouble_and_tried_again(world: World, error: Exception) -> None:
    world.secrets.answers["s"] = [error, SEALED]
    await world.work(task("s"))
    assert world.sweeper.trouble and "odd" not in world.sweeper.trouble and not world.sweeper.refusals
    assert Job(Kind.COUNT) in world.jobs
    await world.work(task("s"))
    assert world.secrets.patched == ["s", "s"] and not world.sweeper.trouble


async def test_one_failure_makes_all_of_them_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 3600)
    world.secrets.answers["s0"] = [KubeUnavailable("HTTP 429")]
    await world.work(*(task(f"s{n}") for n in range(50)))
    assert len(world.secrets.patched) <= module._IN_FLIGHT


async def test_a_conflict_is_left_to_the_next_look(world: World) -> None:
    world.secrets.answers["s"] = [Conflict("409")]
    await world.work(task("s"))
    assert not world.sweeper.trouble and not world.sweeper.refusals
    await world.work(task("s"))
    assert world.secrets.patched == ["s", "s"]


@pytest.mark.parametrize(("answer", "reason"), [(STAYS_IMMUTABLE, IMMUTABLE), (None, "")])
async def test_a_probe_writes_nothing(world: World, answer: Exception | None, reason: str) -> None:
    if answer is not None:
        world.secrets.probes["s"] = answer
    await world.work(task("s", Chore.PROBE))
    assert world.secrets.patched == [] and world.sweeper.refusals == {("ns", "s"): Refusal("1", reason)}


async def test_a_new_plan_replaces_the_old_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sweeper.plan([task("old")])
    await world.work(task("new"))
    assert world.secrets.patched == ["new"]
