"""A mirror follows its collection, and keeps no more than it was told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, cast

import pytest

from keyshred.errors import KubeUnavailable, NotFound, Refused, WatchExpired
from keyshred.kube import mirror as module
from keyshred.kube.client import TABLE, Json, Kube
from keyshred.kube.mirror import Mirror, Turns
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


async def test_it_keeps_no_others_from_being_known(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for name, n in (("a", 1), ("odd", "x"), ("z", 2)):
        world.kube.put(URL, name, notify=False, n=n)
    async with running(world.mirror):
        assert world.synced() and world.mirror.objects == {"a": 1, "z": 2} and world.mirror.unread == {"odd"}
        world.kube.put(URL, "odd", n="y")
        world.kube.put(URL, "b", n=3)
        world.kube.put(URL, "a", n="odd now")
        await settle()
        assert world.mirror.objects == {"b": 3, "z": 2} and world.mirror.unread == {"a", "odd"}
        world.kube.events[URL].put_nowait(WatchExpired("gone"))
        await settle()
        assert world.mirror.unread == {"a", "odd"} and caplog.text.count(f"{URL}/odd cannot be read") == 1
        world.kube.put(URL, "odd", n=4)
        world.kube.remove(URL, "a")
        await settle()
        assert world.mirror.objects == {"b": 3, "odd": 4, "z": 2} and not world.mirror.unread


async def test_what_stands_for_an_object_that_cannot_be_read(world: World) -> None:
    world.mirror = Mirror[int](
        world.kube.kube, URL, lambda obj: int(obj["n"]), world.changed, unreadable=lambda obj: -len(obj["n"])
    )
    world.kube.put(URL, "odd", notify=False, n="x")
    async with running(world.mirror):
        assert world.mirror.objects == {"odd": -1}
        told = world.told
        world.kube.put(URL, "odd", n="xy")
        await settle()
        assert world.mirror.objects == {"odd": -2} and world.told == told + 1


class Essence:
    """A mirror that goes by `n` alone; `read` has every `n` that was read."""

    def __init__(self) -> None:
        self.kube = FakeKube(URL)
        self.read: list[Any] = []
        self.mirror = Mirror[int](
            self.kube.kube, URL, self._read, lambda: None, essence=self._essence, unreadable=lambda obj: -1
        )

    def _essence(self, obj: Json) -> bytes:
        return str(obj["n"]).encode()

    def _read(self, obj: Json) -> int:
        self.read.append(obj["n"])
        return int(obj["n"])


async def test_what_has_not_changed_is_not_read_again() -> None:
    world = Essence()
    world.kube.put(URL, "a", notify=False, n=1)
    world.kube.put(URL, "odd", notify=False, n="x")
    async with running(world.mirror):
        world.kube.put(URL, "a", n=1, status="x")
        world.kube.put(URL, "odd", n="x", status="x")
        await settle()
        world.kube.events[URL].put_nowait(WatchExpired("gone"))
        await settle()
        assert world.read == [1, "x"] and world.mirror.objects == {"a": 1, "odd": -1}
        assert world.mirror.unread == {"odd"}
        world.kube.put(URL, "a", n=2)
        await settle()
        world.kube.remove(URL, "a")
        world.kube.put(URL, "a", n=2)
        await settle()
        assert world.read == [1, "x", 2, 2] and world.mirror.objects == {"a": 2, "odd": -1}


async def test_a_list_that_breaks_off_has_changed_nothing() -> None:
    """Else an object would pass for unchanged that was read, and not kept."""
    pages: list[Json | Exception] = [
        {"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "a"}, "n": 1}]},
        {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}, "n": 2}]},
        KubeUnavailable("away"),
        {"metadata": {"resourceVersion": "3"}, "items": [{"metadata": {"name": "a"}, "n": 2}]},
    ]
    world = Essence()
    seen: list[dict[str, int]] = []

    async def get(*_: Any, **__: Any) -> Json:
        seen.append(dict(world.mirror.objects))
        page = pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page

    world.kube.get = get  # type: ignore[method-assign]
    async with running(world.mirror):
        world.kube.events[URL].put_nowait(WatchExpired("gone"))
        await settle()
        assert seen == [{}, {"a": 1}, {"a": 1}, {"a": 1}] and world.mirror.objects == {"a": 2}


async def test_others_have_a_turn_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many mirrors there are."""
    monkeypatch.setattr(module, "_SLICE", 0)
    turns, read, rounds = Turns(), list[int](), 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.gather(*(turns.take([{}] * 10, lambda _: read.append(rounds)) for _ in range(3)))
    counting.cancel()
    assert len(read) == len(set(read)) == 30


async def test_others_have_a_turn_between_events_that_are_there_already(world: World) -> None:
    read_at: list[int] = []
    rounds = 0

    def read(obj: Json) -> int:
        read_at.append(rounds)
        return int(obj["n"])

    async with running(Mirror[int](world.kube.kube, URL, read, world.changed)):
        for n in range(5):
            world.kube.put(URL, "a", n=n)
        for _ in range(20):
            rounds += 1
            await asyncio.sleep(0)
    assert len(read_at) == len(set(read_at)) == 5


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
