"""Wraps are counted before they are made, in blocks."""

import asyncio
from typing import Any

import pytest

from keyshred.errors import ConfigInvalid, Conflict, KeyNotUsable, KubeUnavailable, PolicyNotFresh
from keyshred.hsm.interface import KeyRef
from keyshred.kube.client import own_path
from keyshred.names import KEY_RECORDS
from keyshred.policy.wraps import BLOCK, MOST, ROTATION_DUE
from keyshred.webhook.wraps import Wraps
from tests.unit.fakes import KEY_A, FakeKube, settle

Json = dict[str, Any]
REF, OTHER = KeyRef(KEY_A, 2), KeyRef(KEY_A, 1)
RECORDS = own_path(KEY_RECORDS)
URL = own_path(KEY_RECORDS, str(KEY_A))


@pytest.fixture
def kube() -> FakeKube:
    fake = FakeKube(RECORDS)
    store(fake, 0)
    return fake


def store(kube: FakeKube, reserved: int, **status: Any) -> None:
    versions = [{"version": 1, "checkValue": "ab"}, {"version": 2, "checkValue": "cd"}]
    if reserved:
        versions[1]["wrapsReserved"] = reserved
    kube.put(
        RECORDS, str(KEY_A), status={"state": "Active", "transitions": [{"seq": 1}], "versions": versions} | status
    )


def counted(kube: FakeKube, version: int = 2) -> int:
    versions = kube.objects[RECORDS][str(KEY_A)]["status"]["versions"]
    return int(next(v.get("wrapsReserved", 0) for v in versions if v["version"] == version))


async def take(wraps: Wraps, times: int, ref: KeyRef = REF) -> None:
    for _ in range(times):
        await wraps.take(ref, "rk")


async def test_one_write_for_a_block(kube: FakeKube) -> None:
    wraps = Wraps(kube.kube)
    await asyncio.gather(*(wraps.take(REF, "rk") for _ in range(50)))
    assert (counted(kube), counted(kube, 1), len(kube.calls)) == (BLOCK, 0, 1)
    stored = kube.objects[RECORDS][str(KEY_A)]["status"]
    assert stored["transitions"] == [{"seq": 1}] and stored["versions"][1]["checkValue"] == "cd"
    await take(wraps, 1, OTHER)
    assert (counted(kube), counted(kube, 1)) == (BLOCK, BLOCK)


async def test_the_next_block_is_there_before_it_is_needed(kube: FakeKube) -> None:
    wraps = Wraps(kube.kube)
    await take(wraps, BLOCK // 2 - 1)
    await settle()
    assert counted(kube) == BLOCK
    await take(wraps, 1)
    await settle()
    assert counted(kube) == 2 * BLOCK
    kube.errors[URL] = KubeUnavailable("away")
    await take(wraps, BLOCK + BLOCK // 2)  # what is reserved can be had without the API server
    with pytest.raises(KubeUnavailable):
        await take(wraps, 1)
    del kube.errors[URL]
    await take(wraps, 1)
    assert counted(kube) == 3 * BLOCK


async def test_two_workers_count_apart(kube: FakeKube) -> None:
    await asyncio.gather(*(take(Wraps(kube.kube), 1) for _ in range(4)))
    assert counted(kube) == 4 * BLOCK


async def test_somebody_elses_write_in_between_is_kept(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, writes = kube.replace, 0

    async def raced(url: str, body: Json) -> Json:
        nonlocal writes
        writes += 1
        if writes == 1:
            store(kube, 5 * BLOCK, message="the controller was faster")
        return await replace(url, body)

    monkeypatch.setattr(kube, "replace", raced)
    await take(Wraps(kube.kube), 1)
    assert counted(kube) == 6 * BLOCK
    assert kube.objects[RECORDS][str(KEY_A)]["status"]["message"] == "the controller was faster"


async def test_a_record_that_others_never_stop_writing(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(url: str, body: Json) -> Json:
        raise Conflict("again")

    monkeypatch.setattr(kube, "replace", refused)
    with pytest.raises(KubeUnavailable, match="RootKey rk: try again"):
        await take(Wraps(kube.kube), 1)


async def test_the_last_block(kube: FakeKube) -> None:
    store(kube, MOST - BLOCK)
    wraps = Wraps(kube.kube)
    await take(wraps, BLOCK)
    assert counted(kube) == MOST and wraps.rotation_due(REF)
    with pytest.raises(KeyNotUsable, match=r"RootKey rk has wrapped 2\^31 data keys under its version 2"):
        await take(wraps, 1)
    assert counted(kube) == MOST


@pytest.mark.parametrize(("before", "due"), [(ROTATION_DUE - 2 * BLOCK, False), (ROTATION_DUE - BLOCK, True)])
async def test_when_a_rotation_is_due(kube: FakeKube, before: int, due: bool) -> None:
    store(kube, before)
    wraps = Wraps(kube.kube)
    assert not wraps.rotation_due(REF)
    await take(wraps, 1)
    assert wraps.rotation_due(REF) is due


@pytest.mark.parametrize("state", ["PendingDestruction", "Destroyed"])
async def test_a_record_under_destruction_is_not_touched(kube: FakeKube, state: str) -> None:
    store(kube, 0, state=state)
    version = kube.version
    with pytest.raises(KeyNotUsable, match=state):
        await take(Wraps(kube.kube), 1)
    assert kube.version == version


async def test_what_cannot_be_counted_is_not_sealed(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyNotFresh, match="does not show its version"):
        await Wraps(kube.kube).take(KeyRef(KEY_A, 3), "rk")
    dropped = kube.objects[RECORDS][str(KEY_A)]

    async def old_schema(url: str, body: Json) -> Json:
        return dropped

    monkeypatch.setattr(kube, "replace", old_schema)
    with pytest.raises(ConfigInvalid, match="older than keyshred"):
        await take(Wraps(kube.kube), 1)
    kube.objects[RECORDS].clear()
    with pytest.raises(PolicyNotFresh, match="RootKey rk has no KeyRecord"):
        await take(Wraps(kube.kube), 1)


async def test_who_stops_waiting_stops_nobody_else(kube: FakeKube) -> None:
    kube.hang = asyncio.Event()
    wraps = Wraps(kube.kube)
    impatient, patient = (asyncio.create_task(wraps.take(REF, "rk")) for _ in range(2))
    await settle()
    impatient.cancel()
    await settle()
    kube.hang.set()
    await patient
    assert counted(kube) == BLOCK


async def test_an_api_server_that_hangs(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyshred.webhook.wraps._WITHIN", 0.01)
    kube.hang = asyncio.Event()
    with pytest.raises(KubeUnavailable, match="try again"):
        await take(Wraps(kube.kube), 1)
