"""What cannot be confirmed, or cannot be read, decides nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from keyshred.errors import KubeUnavailable, NotFound, PolicyNotFresh
from keyshred.kube.client import own_path, path
from keyshred.names import ANNOTATION_HELD, KEY_AUTHORIZATIONS, KEY_RECORDS, ROOT_KEYS, KeyState
from keyshred.webhook.snapshot import Snapshot
from tests.unit.fakes import KEY_A, NOW, SEALING, FakeKube, Json, authorization, root_key, settle

RKS, KAS, KRS, NAMESPACES = own_path(ROOT_KEYS), own_path(KEY_AUTHORIZATIONS), own_path(KEY_RECORDS), path("namespaces")
SHORT = 0.2
"""Seconds until a list that hangs is given up."""


def put(kube: FakeKube, url: str, obj: Json, *, notify: bool = False) -> None:
    fields = {k: v for k, v in obj.items() if k != "metadata"}
    kube.put(url, obj["metadata"]["name"], notify=notify, metadata=obj["metadata"], **fields)


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    fake = FakeKube(RKS, KAS, KRS, NAMESPACES)
    put(fake, RKS, root_key())
    put(fake, KAS, authorization())
    put(fake, NAMESPACES, {"metadata": {"name": "ns", "labels": SEALING}})
    yield fake


@contextlib.asynccontextmanager
async def running(
    kube: FakeKube, max_age: float = 60, confirm_every: float = 60, patience: float = 0
) -> AsyncIterator[Snapshot]:
    snapshot = Snapshot(kube.kube, "keyshred", max_age=max_age, confirm_every=confirm_every, patience=patience)
    task = asyncio.create_task(snapshot.run())
    await settle()
    try:
        yield snapshot
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def age(snapshot: Snapshot) -> None:
    """As if the last confirmation were long ago."""
    snapshot._confirmed_at = float("-inf")


async def test_a_policy(kube: FakeKube) -> None:
    async with running(kube) as snapshot:
        policy = await snapshot.policy()
        assert list(policy.root_keys) == ["rk"]
        assert [a.name for a in policy.authorizations] == ["ka"]
        assert policy.namespaces == {"ns": SEALING}
        assert policy.own_namespace == "keyshred"


async def test_before_the_first_list(kube: FakeKube) -> None:
    snapshot = Snapshot(kube.kube, "keyshred", max_age=1, confirm_every=0.5, first_lists=SHORT, patience=0)
    with pytest.raises(PolicyNotFresh):
        snapshot.current()
    with pytest.raises(PolicyNotFresh):  # namespaces and records were never listed
        await snapshot.policy()


async def test_requests_wait_for_the_first_lists(kube: FakeKube) -> None:
    snapshot = Snapshot(kube.kube, "keyshred", max_age=60, confirm_every=60)
    asked = asyncio.create_task(snapshot.policy())
    await settle()
    assert not asked.done()
    running = asyncio.create_task(snapshot.run())
    assert list((await asked).root_keys) == ["rk"]
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_stale_watch_never_decides(kube: FakeKube) -> None:
    async with running(kube) as snapshot:
        await snapshot.policy()
        kube.remove(KAS, "ka", notify=False)
        put(kube, RKS, root_key(deleting=True))
        age(snapshot)
        policy = await snapshot.policy()
        assert policy.authorizations == ()
        assert policy.state(KEY_A, NOW) is KeyState.PENDING_DESTRUCTION


async def test_a_list_that_hangs(kube: FakeKube) -> None:
    async with running(kube, max_age=SHORT) as snapshot:
        await snapshot.policy()
        kube.hang = asyncio.Event()
        age(snapshot)
        with pytest.raises(PolicyNotFresh):
            await snapshot.policy()
        with pytest.raises(PolicyNotFresh):
            snapshot.current()
        kube.hang.set()
        await snapshot.policy()


async def test_a_list_that_fails_for_a_moment_is_waited_for(kube: FakeKube) -> None:
    async with running(kube, patience=60) as snapshot:
        await snapshot.policy()
        kube.errors[RKS] = KubeUnavailable("the CRD is being changed")
        age(snapshot)
        asking = asyncio.create_task(snapshot.policy())
        await settle()
        assert not asking.done()
        with pytest.raises(PolicyNotFresh):
            snapshot.current()
        del kube.errors[RKS]
        assert (await asking).root_keys


async def test_an_answer_that_comes_too_late_confirms_nothing(kube: FakeKube) -> None:
    async with running(kube, max_age=SHORT) as snapshot:
        await snapshot.policy()
        kube.hang = asyncio.Event()
        age(snapshot)
        asking = asyncio.create_task(snapshot.policy())
        await asyncio.sleep(SHORT * 2)
        kube.hang.set()
        with pytest.raises(PolicyNotFresh):
            await asking


async def test_the_age_counts_from_before_the_list(kube: FakeKube) -> None:
    """What was changed while the answer was under way is not in it."""
    async with running(kube) as snapshot:
        kube.hang = asyncio.Event()
        asking = asyncio.create_task(snapshot.confirm())
        await settle()
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(0.001)
        kube.hang.set()
        await asking
        assert snapshot._confirmed_at <= begun


@pytest.mark.parametrize("error", [KubeUnavailable("away"), NotFound("no such resource")])
@pytest.mark.parametrize("url", [RKS, KAS])
async def test_a_list_that_fails(kube: FakeKube, url: str, error: Exception) -> None:
    async with running(kube) as snapshot:
        await snapshot.policy()
        kube.errors[url] = error
        age(snapshot)
        with pytest.raises(PolicyNotFresh):
            await snapshot.policy()


@pytest.mark.parametrize("url", [RKS, KAS, KRS, NAMESPACES])
async def test_a_resource_that_vanishes(kube: FakeKube, url: str) -> None:
    """The CRD was deleted: what it held last must not go on deciding."""
    async with running(kube) as snapshot:
        await snapshot.policy()
        kube.errors[url] = NotFound("no such resource")
        kube.events[url].put_nowait(NotFound("no such resource"))
        await settle()
        with pytest.raises(PolicyNotFresh):
            await snapshot.policy()
        with pytest.raises(PolicyNotFresh):
            snapshot.current()


async def test_an_authorization_that_cannot_be_read_stops_every_decision(kube: FakeKube) -> None:
    """What it would protect is not known."""
    broken = authorization("bad")
    broken["spec"] = broken["spec"] | {"rootKeyRef": {}}
    async with running(kube) as snapshot:
        for mended in (authorization("bad"), None):
            await snapshot.policy()
            put(kube, KAS, broken, notify=True)
            await settle()
            with pytest.raises(PolicyNotFresh, match="the KeyAuthorization bad cannot be read"):
                await snapshot.policy()
            if mended:
                put(kube, KAS, mended, notify=True)
            else:
                kube.remove(KAS, "bad")
            await settle()
        await snapshot.policy()


async def test_a_root_key_that_cannot_be_read_is_as_if_it_were_not_there(kube: FakeKube) -> None:
    broken = root_key("bad")
    broken["spec"] = broken["spec"] | {"expirationTime": "2030-01-01T00:00:00+24:00"}
    async with running(kube) as snapshot:
        put(kube, RKS, broken, notify=True)
        await settle()
        assert list((await snapshot.policy()).root_keys) == ["rk"]


async def test_waiting_requests_share_one_list(kube: FakeKube) -> None:
    async with running(kube) as snapshot:
        kube.calls.clear()
        await asyncio.gather(*(snapshot.confirm() for _ in range(50)))
        assert sorted(kube.calls) == sorted([RKS, KAS])


async def test_a_request_that_is_given_up_takes_no_list_from_the_others(kube: FakeKube) -> None:
    async with running(kube) as snapshot:
        kube.hang = asyncio.Event()
        first, second = asyncio.create_task(snapshot.confirm()), asyncio.create_task(snapshot.confirm())
        await settle()
        first.cancel()
        await settle()
        kube.hang.set()
        await second


async def test_a_destruction_that_was_seen_stays_seen(kube: FakeKube) -> None:
    record = {"metadata": {"name": str(KEY_A)}, "status": {"state": "Destroyed"}}
    put(kube, KRS, record)
    async with running(kube) as snapshot:
        assert (await snapshot.policy()).state(KEY_A, NOW) is KeyState.DESTROYED
        kube.remove(KRS, str(KEY_A))
        await settle()
        assert (await snapshot.policy()).state(KEY_A, NOW) is KeyState.DESTROYED


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": {}}])
async def test_a_record_without_a_state(kube: FakeKube, status: Json) -> None:
    put(kube, KRS, {"metadata": {"name": str(KEY_A)}} | status)
    async with running(kube) as snapshot:
        assert (await snapshot.policy()).records == {}


async def test_namespaces_follow_the_watch(kube: FakeKube) -> None:
    async with running(kube) as snapshot:
        put(kube, NAMESPACES, {"metadata": {"name": "new", "labels": SEALING}}, notify=True)
        put(kube, NAMESPACES, {"metadata": {"name": "bare"}}, notify=True)
        kube.remove(NAMESPACES, "ns")
        await settle()
        assert (await snapshot.policy()).namespaces == {"new": SEALING, "bare": {}}


async def test_no_traffic_no_lists(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyshred.webhook.snapshot._IDLE", 0.0)
    async with running(kube, confirm_every=0.001) as snapshot:
        await snapshot.policy()
        async with asyncio.timeout(60):
            while snapshot._used.is_set():
                await asyncio.sleep(0.001)
        before = len(kube.calls)
        await asyncio.sleep(0.02)
        assert len(kube.calls) == before


async def test_traffic_keeps_it_confirmed(kube: FakeKube) -> None:
    async with running(kube, confirm_every=0.001) as snapshot:
        await snapshot.policy()
        wanted = len(kube.calls) + 6
        async with asyncio.timeout(60):
            while len(kube.calls) < wanted:
                await asyncio.sleep(0.001)
        assert snapshot.age < 5


# --- namespaces


async def test_what_is_held(kube: FakeKube) -> None:
    async with running(kube) as snapshot:
        for text, names in (("a,b", "ab"), ("*", "abz"), ("", ""), (None, "")):
            annotations = {} if text is None else {ANNOTATION_HELD: text}
            kube.put(NAMESPACES, "ns", metadata={"labels": SEALING, "annotations": annotations})
            await settle()
            policy = await snapshot.policy()
            assert "".join(n for n in "abz" if policy.holds("ns", n)) == names
            assert not policy.holds("other", "a")


async def test_a_namespace_that_the_watch_did_not_bring_yet_is_read(kube: FakeKube) -> None:
    async with running(kube) as snapshot:
        meta = {"labels": SEALING, "annotations": {ANNOTATION_HELD: "a"}}
        kube.put(NAMESPACES, "new", notify=False, metadata=meta)
        assert (await snapshot.policy()).sealing("new") is None
        policy = await snapshot.policy("new")
        assert policy.sealing("new") is not None and policy.holds("new", "a")
        kube.calls.clear()
        await snapshot.policy("new")
        await snapshot.policy("keyshred")
        assert kube.calls == [], "read once, and never ours"
        assert (await snapshot.policy("missing")).sealing("missing") is None
        kube.errors[f"{NAMESPACES}/missing"] = KubeUnavailable("away")
        with pytest.raises(KubeUnavailable):
            await snapshot.policy("missing")
