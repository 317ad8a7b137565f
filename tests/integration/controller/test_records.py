"""KeyRecords under two writers, on a real API server."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from keyshred.errors import Conflict, NotFound, Refused
from keyshred.hsm.interface import KeyRef
from keyshred.kube.client import Kube
from keyshred.kube.records import Records
from keyshred.policy.ledger import Action, check_chain
from keyshred.policy.wraps import BLOCK
from keyshred.webhook.wraps import Wraps
from tests.integration.controller.lab import Lab


@pytest.fixture
async def records(running: Lab) -> AsyncIterator[Records]:
    kube = await Kube.connect(str(running.cluster.kubeconfig))
    yield Records(kube)
    await kube.close()


async def test_it_is_begun_once(records: Records) -> None:
    key_id = uuid.uuid4()
    begun = await asyncio.gather(*(records.ensure(key_id, "tenant", by=f"user-{n}") for n in range(3)))
    assert len({r["metadata"]["uid"] for r in begun}) == 1
    assert [t["action"] for t in begun[0]["status"]["transitions"]] == ["Created"]
    assert begun[0]["status"]["state"] == "PreActivation"
    assert await records.get(uuid.uuid4()) is None


async def test_two_writers_at_once_lose_nothing(records: Records) -> None:
    key_id = uuid.uuid4()
    await records.ensure(key_id, "tenant", by="tester")
    for _ in range(5):
        await asyncio.gather(
            records.append(key_id, action=Action.DELETE_ADMITTED, by="webhook", changes={"rootKeyUID": "a"}),
            records.append(key_id, action=Action.SUSPENDED, by="controller", changes={"message": "b"}),
        )
    record = await records.get(key_id)
    assert record is not None
    transitions = record["status"]["transitions"]
    check_chain(transitions)
    assert sorted(t["by"] for t in transitions) == ["controller"] * 5 + ["tester"] + ["webhook"] * 5
    assert (record["status"]["rootKeyUID"], record["status"]["message"]) == ("a", "b")


async def test_a_step_is_written_on_what_was_read_or_not_at_all(records: Records) -> None:
    key_id = uuid.uuid4()
    read = await records.ensure(key_id, "tenant", by="tester")
    await records.prove(read)
    moved = await records.append(key_id, action=Action.DELETE_ADMITTED, by="webhook")
    with pytest.raises(Conflict):
        await records.prove(read)
    with pytest.raises(Conflict):
        await records.write(read, action=Action.GENERATE_STARTED, by="controller")
    assert await records.get(key_id) == moved


async def test_proving_changes_nothing(records: Records) -> None:
    key_id = uuid.uuid4()
    read = await records.ensure(key_id, "tenant", by="tester")
    await records.prove(read)
    assert await records.get(key_id) == read


async def test_nothing_is_appended_to_a_record_that_is_not_there(records: Records) -> None:
    with pytest.raises(NotFound):
        await records.append(uuid.uuid4(), action=Action.DELETE_ADMITTED, by="webhook")


async def test_the_api_server_holds_the_line_too(records: Records) -> None:
    read = await records.ensure(uuid.uuid4(), "tenant", by="tester")
    with pytest.raises(Refused, match="only be said with evidence"):
        await records.write(read, action=Action.DESTROYED, by="controller", changes={"state": "Destroyed"})


async def test_counting_wraps_is_no_move(records: Records, running: Lab) -> None:
    ref = KeyRef(uuid.uuid4(), 1)
    version = {"version": 1, "mechanism": "AES_GCM", "checkValue": "0f" * 16, "createdAt": "2026-01-01T00:00:00Z"}
    await records.ensure(ref.key_id, "tenant", by="tester")
    read = await records.append(
        ref.key_id, action=Action.GENERATED, by="controller", changes={"versions": [version], "state": "Active"}
    )
    kube = await Kube.connect(str(running.cluster.kubeconfig))
    await Wraps(kube).take(ref, "tenant")
    await records.prove(read)
    written = await records.write(read, action=Action.SUSPENDED, by="controller", changes={"state": "Suspended"})
    assert (written["status"]["state"], written["status"]["versions"][0]["wrapsReserved"]) == ("Suspended", BLOCK)

    await Wraps(kube).take(ref, "tenant")
    with pytest.raises(Conflict):
        await records.write(written, action=Action.ACTIVATED, by="controller", changes={"versions": [version]})
    await records.append(ref.key_id, action=Action.ACTIVATED, by="another controller")
    with pytest.raises(Conflict):
        await records.prove(written)
    await kube.close()
