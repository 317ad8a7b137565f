"""A collection is never older than it says, in whatever order lists and watch events come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.errors import KubeUnavailable, NotFound, WatchExpired
from keyshred.kube import collection as module
from keyshred.kube.collection import Collection
from tests.unit.fakes import FakeKube, Json, settle

URL = "/things"


class World:
    """A collection over a fake API server, and what it was told of."""

    def __init__(self) -> None:
        self.kube = FakeKube(URL)
        self.changed: list[str] = []
        self.collection = Collection(self.kube.kube, URL, self.changed.append)

    def synced(self) -> bool:
        """No property: mypy takes one that was True to stay so."""
        return self.collection.synced

    @property
    def seen(self) -> dict[str, int]:
        return {n: o["n"] for n, o in self.collection.objects.items()}

    @property
    def real(self) -> dict[str, int]:
        return {n: o["n"] for n, o in self.kube.objects[URL].items()}


@pytest.fixture
def world() -> World:
    return World()


@contextlib.asynccontextmanager
async def watching(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.collection.run())
    await settle()
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def event(kind: str, name: str, version: int, n: int = 0) -> Json:
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}, "n": n}}


async def test_list_and_watch(world: World) -> None:
    world.kube.put(URL, "a", notify=False, n=1)
    assert not world.synced()
    async with watching(world):
        assert world.synced()
        assert world.seen == {"a": 1}
        world.kube.put(URL, "a", n=2)
        world.kube.put(URL, "b", n=3)
        await settle()
        assert world.seen == {"a": 2, "b": 3}
        world.kube.remove(URL, "a")
        await settle()
        assert world.seen == {"b": 3}
    assert world.changed == ["a", "a", "b", "a"]


async def test_confirm_finds_what_the_watch_did_not_tell(world: World) -> None:
    for name in "abc":
        world.kube.put(URL, name, notify=False, n=1)
    async with watching(world):
        world.kube.put(URL, "a", notify=False, n=2)
        world.kube.remove(URL, "b", notify=False)
        world.kube.put(URL, "d", notify=False, n=4)
        world.changed.clear()
        await world.collection.confirm()
        assert world.seen == {"a": 2, "c": 1, "d": 4}
        assert sorted(world.changed) == ["a", "b", "d"]
        world.changed.clear()
        await world.collection.confirm()
        assert world.changed == []


async def test_confirm_lists_all_where_much_changed(world: World) -> None:
    for n in range(module._GET_ONE_BY_ONE + 1):
        world.kube.put(URL, f"x{n}", notify=False, n=n)
    await world.collection.confirm()
    assert world.seen == world.real
    assert world.kube.calls == [URL, URL]


async def test_confirm_finds_an_empty_collection(world: World) -> None:
    world.kube.put(URL, "a", notify=False, n=1)
    await world.collection.confirm()
    world.kube.remove(URL, "a", notify=False)
    await world.collection.confirm()
    assert world.seen == {}
    assert world.synced()


async def test_events_that_are_older_than_the_list(world: World) -> None:
    async with watching(world):
        world.kube.put(URL, "a", notify=False, n=1)
        world.kube.put(URL, "a", notify=False, n=2)
        world.kube.put(URL, "gone", notify=False, n=1)
        world.kube.remove(URL, "gone", notify=False)
        await world.collection.confirm()
        for late in (event("ADDED", "a", 11, 1), event("ADDED", "gone", 13, 1), event("DELETED", "a", 11)):
            world.kube.events[URL].put_nowait(late)
        await settle()
        assert world.seen == {"a": 2}


async def test_a_list_that_is_older_than_the_events(world: World) -> None:
    """The answer of a list is under way while newer events arrive."""
    world.kube.put(URL, "a", notify=False, n=1)
    world.kube.put(URL, "b", notify=False, n=1)
    async with watching(world):

        def meanwhile() -> None:
            world.kube.put(URL, "a", n=2)
            world.kube.remove(URL, "b")
            world.kube.put(URL, "c", n=3)

        world.kube.after_list = meanwhile
        await world.collection.confirm()
        assert world.seen == {"a": 2, "c": 3}


async def test_a_full_list_that_is_older_than_the_events(world: World) -> None:
    world.kube.put(URL, "a", notify=False, n=1)
    async with watching(world):

        def meanwhile() -> None:
            world.kube.put(URL, "a", n=2)
            world.kube.remove(URL, "a")
            world.kube.put(URL, "c", n=3)

        world.kube.after_list = meanwhile
        await world.collection._list()
        assert world.seen == {"c": 3}


async def test_a_list_that_still_names_what_was_deleted(world: World) -> None:
    async with watching(world):
        world.kube.put(URL, "a", n=1)
        await settle()
        world.kube.after_list = lambda: world.kube.remove(URL, "a")
        await world.collection._list()
        assert world.seen == {}


async def test_lists_that_overtake_each_other(world: World) -> None:
    async with watching(world):
        newer: list[asyncio.Task[str]] = []

        def meanwhile() -> None:
            world.kube.put(URL, "a", notify=False, n=1)
            world.kube.remove(URL, "a", notify=False)
            newer.append(asyncio.create_task(world.collection._list()))

        world.kube.after_list = meanwhile
        await world.collection._list()
        assert newer[0].done()
        # Late: the newer list has said already that it is gone.
        world.kube.events[URL].put_nowait(event("ADDED", "a", 11, 1))
        await settle()
        assert world.seen == {}


async def test_deleted_and_made_anew_with_the_same_name(world: World) -> None:
    world.kube.put(URL, "a", notify=False, n=1)
    async with watching(world):
        world.kube.remove(URL, "a", notify=False)
        world.kube.put(URL, "a", notify=False, n=2)
        await world.collection.confirm()
        # Late: the deletion of the one before.
        world.kube.events[URL].put_nowait(event("DELETED", "a", 12))
        await settle()
        assert world.seen == {"a": 2}


async def test_changed_and_deleted_between_list_and_read(world: World) -> None:
    world.kube.put(URL, "a", notify=False, n=1)
    world.kube.put(URL, "b", notify=False, n=1)
    async with watching(world):
        world.kube.put(URL, "a", notify=False, n=2)
        world.kube.after_list = lambda: world.kube.remove(URL, "a", notify=False)
        await world.collection.confirm()
        assert world.seen == {"b": 1}


async def test_the_resource_itself_goes_and_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0)
    world.kube.put(URL, "a", notify=False, n=1)
    async with watching(world):
        world.kube.errors[URL] = NotFound("no such resource")
        world.kube.events[URL].put_nowait(NotFound("no such resource"))
        await settle()
        assert not world.synced()
        with pytest.raises(NotFound):
            await world.collection.confirm()
        del world.kube.errors[URL]
        world.kube.remove(URL, "a", notify=False)
        await settle()
        assert world.synced()
        assert world.seen == {}


async def test_confirm_notices_that_the_resource_is_gone(world: World) -> None:
    await world.collection.confirm()
    world.kube.errors[URL] = NotFound("no such resource")
    with pytest.raises(NotFound):
        await world.collection.confirm()
    assert not world.synced()


@pytest.mark.parametrize("error", [WatchExpired("too old"), KubeUnavailable("away")])
async def test_a_broken_watch_begins_with_a_list(
    world: World, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY", 0)
    async with watching(world):
        world.kube.put(URL, "a", notify=False, n=1)
        world.kube.events[URL].put_nowait(error)
        await settle()
        assert world.seen == {"a": 1}
        world.kube.put(URL, "a", n=2)
        await settle()
        assert world.seen == {"a": 2}


@pytest.mark.parametrize("confirm", [True, False])
async def test_an_etcd_that_was_restored(world: World, confirm: bool) -> None:
    """Versions fall: what was newer than the backup must not go on deciding."""
    world.kube.put(URL, "kept", notify=False, n=1)
    backup, version = dict(world.kube.objects[URL]), world.kube.version
    async with watching(world):
        world.kube.put(URL, "kept", n=2)
        world.kube.put(URL, "later", n=1)
        await settle()
        assert world.seen == {"kept": 2, "later": 1}
        world.kube.objects[URL], world.kube.version = backup, version + 1
        await (world.collection.confirm() if confirm else world.collection._list())
        assert world.seen == {"kept": 1}
        world.kube.put(URL, "kept", n=3)
        await settle()
        assert world.seen == {"kept": 3}


async def test_nothing_is_decided_while_a_restored_etcd_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.kube.put(URL, "kept", notify=False, n=1)
    backup, version = dict(world.kube.objects[URL]), world.kube.version
    async with watching(world):
        world.kube.put(URL, "kept", n=2)
        await settle()
        world.kube.objects[URL], world.kube.version = backup, version
        read, during = world.collection._get, list[tuple[bool, object]]()

        async def noted(name: str) -> Json | None:
            during.append((world.collection.synced, dict(world.seen)))
            return await read(name)

        monkeypatch.setattr(world.collection, "_get", noted)
        await world.collection.confirm()
        assert during == [(False, {})]
        assert world.collection.synced and world.seen == {"kept": 1}


steps = st.lists(
    st.tuples(st.sampled_from(["put", "remove", "deliver", "confirm", "list"]), st.sampled_from("abc")), max_size=25
)


@given(steps)
def test_any_order(script: list[tuple[str, str]]) -> None:
    """After each confirmation the collection is as the server; and the watch, in its own time, never takes it back."""

    async def run() -> None:
        world = World()
        late: list[Json] = []
        async with watching(world):
            for n, (step, name) in enumerate(script):
                match step:
                    case "put":
                        late.append(
                            event(
                                "MODIFIED" if name in world.real else "ADDED",
                                name,
                                int(world.kube.put(URL, name, notify=False, n=n)["metadata"]["resourceVersion"]),
                                n,
                            )
                        )
                    case "remove" if name in world.real:
                        world.kube.remove(URL, name, notify=False)
                        late.append(event("DELETED", name, world.kube.version))
                    case "deliver" if late:
                        world.kube.events[URL].put_nowait(late.pop(0))
                        await settle()
                    case "confirm" | "list":
                        await (world.collection.confirm() if step == "confirm" else world.collection._list())
                        assert world.seen == world.real
            for rest in late:
                world.kube.events[URL].put_nowait(rest)
            for _ in late:
                await settle()
            assert world.seen == world.real

    asyncio.run(run())
