"""A mirror follows its collection, and keeps no more than it was told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, cast

import pytest

from keyshred.errors import KubeUnavailable, NotFound, Refused, WatchExpired
from keyshred.kube import mirror as module
from keyshred.kube.client import TABLE, Json, Kube
from keyshred.kube.mirror import Mirror
from tests.unit.fakes import FakeKube, settle

URL = "/things"


class World:
    """A mirror over a fake API server; it keeps the field `n`."""

    def __init__(self) -> None:
        self.kube = FakeKube(URL)
        self.told = 0
        self.mirror = Mirror[int](self.kube.kube, URL, lambda obj: int(obj["n"]), self.changed)

    def changed(self) -> None:
        self.told += 1

    def synced(self) -> bool:
        """No property: mypy takes one that was True to stay so."""
        return self.mirror.synced


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0)


@pytest.fixture
def world() -> World:
    return World()


@contextlib.asynccontextmanager
async def running(mirror: Mirror[int]) -> AsyncIterator[None]:
    task = asyncio.create_task(mirror.run())
    await settle()
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_it_lists_and_then_watches(world: World) -> None:
    world.kube.put(URL, "a", notify=False, n=1)
    assert not world.synced()
    async with running(world.mirror):
        assert world.synced() and world.mirror.objects == {"a": 1} and world.told == 1
        world.kube.put(URL, "b", n=2)
        world.kube.put(URL, "a", n=3)
        await settle()
        assert world.mirror.objects == {"a": 3, "b": 2} and world.told == 3
        world.kube.remove(URL, "a")
        await settle()
        assert world.mirror.objects == {"b": 2} and world.told == 4


async def test_what_makes_no_difference_is_not_told(world: World) -> None:
    async with running(world.mirror):
        world.kube.put(URL, "a", n=1)
        await settle()
        told = world.told
        world.kube.put(URL, "a", n=1, other="x")
        world.kube.events[URL].put_nowait({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "99"}}})
        await settle()
        assert world.told == told and world.mirror.objects == {"a": 1}


@pytest.mark.parametrize("error", [WatchExpired("gone"), KubeUnavailable("away"), ValueError("odd")])
async def test_it_lists_anew_where_the_watch_breaks(world: World, error: Exception) -> None:
    async with running(world.mirror):
        world.kube.put(URL, "a", notify=False, n=1)
        world.kube.events[URL].put_nowait(error)
        await settle()
        assert world.synced() and world.mirror.objects == {"a": 1}


async def test_what_may_not_be_read_is_not_known(world: World) -> None:
    world.kube.put(URL, "a", notify=False, n=1)
    async with running(world.mirror):
        world.kube.errors[URL] = Refused("forbidden")
        world.kube.events[URL].put_nowait(KubeUnavailable("away"))
        await settle()
        assert not world.synced()
        del world.kube.errors[URL]
        await settle()
        assert world.synced()


@pytest.mark.parametrize("optional", [False, True])
async def test_a_resource_that_is_not_there(optional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_FOR", 0)
    world = World()
    world.mirror = Mirror[int](world.kube.kube, URL, lambda obj: int(obj["n"]), world.changed, optional=optional)
    world.kube.put(URL, "a", notify=False, n=1)
    async with running(world.mirror):
        assert world.mirror.objects == {"a": 1}
        world.kube.errors[URL] = NotFound("no such resource")
        world.kube.events[URL].put_nowait(KubeUnavailable("away"))
        await settle()
        assert world.synced() is optional
        assert not optional or world.mirror.objects == {}
        del world.kube.errors[URL]
        await settle()
        assert world.synced() and world.mirror.objects == {"a": 1}


async def test_an_object_that_cannot_be_read_shows_nothing_of_itself(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.kube.put(URL, "a", notify=False, n="a value")
    async with running(world.mirror):
        await settle()
    assert "ValueError" in caplog.text and "a value" not in caplog.text


class Tables:
    """Two pages of a Table, and one event."""

    def __init__(self) -> None:
        self.pages: Iterator[Json] = iter([self._table("a", "more"), self._table("b", "")])
        self.asked: list[Mapping[str, str]] = []

    def _table(self, name: str, following: str) -> Json:
        row = {"cells": [name, 1], "object": {"metadata": {"name": name}}}
        return {"metadata": {"resourceVersion": "7", "continue": following}, "rows": [row]}

    async def get(self, url: str, *, accept: str, params: Mapping[str, str]) -> Json:
        assert accept == TABLE
        self.asked.append(dict(params))
        return next(self.pages)

    async def watch(self, url: str, version: str, *, accept: str, params: Mapping[str, str]) -> AsyncIterator[Any]:
        assert (version, accept, params) == ("7", TABLE, {"includeObject": "Metadata"})
        yield {"type": "DELETED", "object": self._table("a", "")}
        await asyncio.Event().wait()


async def test_tables_come_in_pages() -> None:
    tables = Tables()
    mirror = Mirror[int](cast(Kube, tables), URL, lambda row: int(row["cells"][1]), lambda: None, table=True)
    async with running(mirror):
        assert mirror.objects == {"b": 1}
    assert [p.get("continue") for p in tables.asked] == [None, "more"]
    assert all(p["includeObject"] == "Metadata" and p["limit"] == "500" for p in tables.asked)
