"""What a pod says it has cleared of a destroyed key, and whose word is not taken."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from keyshred.names import KeyState
from keyshred.policy import residual
from keyshred.policy.volumes import DRIVER, Files, Source, Variable, Variables, attributes
from tests.unit.fakes import KEY_A, authorization, policy, root_key, settle
from tests.unit.webhook.unseal_server import ANYONE, EVENTS, PODS, VALUES, Json, Server

FILES = attributes(Files((Source("s"),)))
OURS: Json = {"spec": {"volumes": [{"name": "v", "csi": {"driver": DRIVER, "volumeAttributes": FILES}}]}}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.seal(VALUES)
    async with server.running():
        yield server


async def events(server: Server) -> list[str]:
    """Reasons of the Events that the calls so far led to."""
    posting = asyncio.create_task(server.unsealing.refusals.run())
    await settle()
    posting.cancel()
    assert all(e["involvedObject"]["uid"] == "uid-p" for url, e in server.kube.created if url == EVENTS)
    return [e["reason"] for url, e in server.kube.created if url == EVENTS]


async def test_a_pod_says_what_it_has_cleared(server: Server) -> None:
    server.kube.put(PODS, "p", metadata={"uid": "uid-p"}, **OURS)
    await server.unseal(Keyshred_Cleared="v")
    assert await events(server) == [], "it was not refused"
    server.snapshot.now = policy(authorization(), records={KEY_A: KeyState.DESTROYED})
    assert (await server.unseal())[0] == 410
    assert await events(server) == ["UnsealRefused"]
    for _ in range(2):
        status, body, _ = await server.unseal(Keyshred_Cleared="v")
        assert (status, body["type"]) == (410, "urn:keyshred:problem:key-destroyed")
    assert await events(server) == ["UnsealRefused", "VolumeCleared"]
    said = residual.cleared_by(server.kube.created[-1][1], KEY_A)
    assert said == residual.Cleared("uid-p", "v", "s")


@pytest.mark.parametrize(
    ("caller", "volume", "objects"),
    [
        (("ns", "app", "p", "uid-p"), "another", [authorization()]),
        (("ns", "app", "p", "uid-p"), "native", [authorization()]),
        (("ns", "app", "p", "uid-p"), "variables", [authorization()]),
        (("ns", "app"), "v", [authorization(**ANYONE)]),
        (("ns", "app", "p", "uid-of-another"), "v", [authorization(**ANYONE)]),
        (("ns", "app", "p", "uid-p"), "v", [authorization(), root_key(suspended=True)]),
    ],
    ids=["no such volume", "native", "variables", "bound to no pod", "another pod", "not destroyed"],
)
async def test_what_is_claimed_without_right_is_not_told(
    server: Server, caller: tuple[str, ...], volume: str, objects: list[Json]
) -> None:
    variables = {"driver": DRIVER, "volumeAttributes": attributes(Variables((Variable("s", "a"),)))}
    more = [{"name": "native", "secret": {"secretName": "s"}}, {"name": "variables", "csi": variables}]
    server.kube.put(PODS, "p", metadata={"uid": "uid-p"}, spec={"volumes": [*OURS["spec"]["volumes"], *more]})
    server.caller(*caller)
    destroyed = {} if len(objects) > 1 else {KEY_A: KeyState.DESTROYED}
    server.snapshot.now = policy(*objects, records=destroyed)
    assert (await server.unseal(Keyshred_Cleared=volume))[0] == (410 if destroyed else 403)
    assert "VolumeCleared" not in await events(server)
