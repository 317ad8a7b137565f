"""A look at a key: what a survey spares, and what makes the controller look more closely."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

import pytest

from keyshred.controller.ledger import Ledger
from keyshred.controller.material import Materials
from keyshred.controller.parts import Parts
from keyshred.envelope.format import Mechanism
from keyshred.errors import Conflict, HsmUnavailable, KeyMissing, LedgerBehindToken, TokenBroken, TokenMismatch
from keyshred.hsm.interface import KeyRef, Survey, TokenStatus
from keyshred.kube.client import Json
from keyshred.policy.heads import Head
from keyshred.policy.ledger import Action, append
from tests.unit.fakes import KEY_A

CLUSTER: Final = "11111111-2222-4333-8444-555555555555"
CHECK_VALUE: Final = bytes(range(16))
REF: Final = KeyRef(KEY_A, 1)
STATUS: Final = TokenStatus("label", "serial", "maker", "model", "1.0", Mechanism.AES_GCM, True, True)


def record(*actions: Action) -> Json:
    """A KeyRecord of an active key after these transitions."""
    transitions: list[Any] = []
    for action in (Action.CREATED, *actions):
        transitions = append({"transitions": transitions}, now=datetime(2026, 1, 1, tzinfo=UTC), action=action, by="x")
    versions = [{"version": 1, "checkValue": CHECK_VALUE.hex(), "mechanism": "AES_GCM", "canary": ""}]
    status = {"state": "Active", "rootKeyUID": "uid", "versions": versions, "transitions": transitions}
    return {"metadata": {"name": str(KEY_A)}, "status": status}


class Hsm:
    """A token with that key, and what it was asked."""

    def __init__(self, of: Json) -> None:
        self.asked: list[str] = []
        self.versions: tuple[KeyRef, ...] = (REF,)
        self.check: bytes = CHECK_VALUE
        self.owners: frozenset[str] = frozenset({CLUSTER})
        self.top: bytes | None = Head.of(of["status"], CLUSTER).encode()
        self.fails: Exception | None = None
        self.keeps_data = True

    async def status(self) -> TokenStatus:
        return replace(STATUS, data_objects=self.keeps_data)

    async def survey(self) -> Survey:
        if self.fails:
            raise self.fails
        heads = {} if self.top is None else {KEY_A: self.top}
        keys = {KEY_A: self.versions} if self.versions else {}
        return Survey(keys, {KEY_A: self.owners} if self.owners else {}, heads)

    async def find(self, key_id: UUID) -> tuple[KeyRef, ...]:
        self.asked.append("find")
        return self.versions

    async def claims(self, key_id: UUID) -> frozenset[str]:
        self.asked.append("claims")
        return self.owners

    async def set_claim(self, key_id: UUID, cluster: str, claimed: bool) -> None:
        self.asked.append("set_claim")
        self.owners |= {cluster}

    async def head(self, key_id: UUID) -> bytes | None:
        self.asked.append("head")
        return self.top

    async def set_head(self, key_id: UUID, head: bytes) -> None:
        self.asked.append("set_head")
        self.top = head

    async def check_value(self, ref: KeyRef) -> bytes:
        self.asked.append("check_value")
        if not self.versions:
            raise KeyMissing("gone")
        return self.check


class World:
    """A controller's view of one RootKey."""

    def __init__(self, of: Json, resync: float = 60.0) -> None:
        self.hsm = Hsm(of)
        self.moved = False
        parts: Any = SimpleNamespace(
            hsm=self.hsm,
            records=SimpleNamespace(prove=self.prove),
            settings=SimpleNamespace(resync=resync),
            lease=SimpleNamespace(check=lambda: None),
        )
        ledger = Ledger(cast(Parts, parts))
        ledger._cluster_uid = CLUSTER
        self.materials = Materials(cast(Parts, parts), ledger)

    async def prove(self, of: Json) -> None:
        if self.moved:
            raise Conflict("moved")

    async def look(self, of: Json, generation: int = 1) -> list[str]:
        """What the token was asked."""
        self.hsm.asked.clear()
        await self.materials.ensure({"metadata": {"uid": "uid", "generation": generation}, "spec": {}}, of)
        return list(self.hsm.asked)


async def test_a_survey_spares_all_calls_but_one() -> None:
    of = record()
    world = World(of)
    closely = await world.look(of)
    assert closely == ["head", "find", "check_value", "claims", "head"]
    await world.materials.look_over()
    assert await world.look(of, generation=2) == ["check_value"]


async def test_one_look_serves_until_the_next_resync() -> None:
    of = record()
    world = World(of)
    await world.look(of)
    assert await world.look(of) == []
    world = World(of, resync=0)
    await world.look(of)
    await world.materials.look_over()
    assert "find" in await world.look(of), "the survey is old as well"


async def test_an_older_record_is_looked_at_again_at_once() -> None:
    older, newer = record(), record(Action.SUSPENDED)
    world = World(newer)
    await world.look(newer)
    with pytest.raises(LedgerBehindToken):
        await world.look(older)


async def test_a_record_that_was_written_on_meanwhile_is_remembered() -> None:
    """Its head is only seen here, so the token may be the one that is behind."""
    older, newer = record(), record(Action.SUSPENDED)
    world = World(older)
    await world.look(older)
    assert await world.look(newer) == []
    assert await world.look(older) != []


@pytest.mark.parametrize("what", ["claim", "head", "version", "survey"])
async def test_what_is_amiss_is_looked_at_closely_and_mended(what: str) -> None:
    of = record()
    world = World(of)
    match what:
        case "claim":
            world.hsm.owners = frozenset({"another"})
        case "head":
            world.hsm.top = None
        case "version":
            world.hsm.versions = (REF, KeyRef(KEY_A, 2))
        case "survey":
            world.hsm.fails = HsmUnavailable("away")
    await world.materials.look_over()
    asked = await world.look(of)
    assert "find" in asked
    assert (CLUSTER in world.hsm.owners, world.hsm.top) == (True, Head.of(of["status"], CLUSTER).encode())


async def test_a_key_that_went_after_the_survey_is_missed() -> None:
    of = record()
    world = World(of)
    await world.materials.look_over()
    world.hsm.versions = ()
    with pytest.raises(KeyMissing):
        await world.look(of)


async def test_another_key_under_the_same_id_is_told() -> None:
    of = record()
    world = World(of)
    world.hsm.check = bytes(16)
    await world.materials.look_over()
    with pytest.raises(TokenMismatch):
        await world.look(of)


async def test_a_head_that_speaks_against_the_record_is_never_replaced() -> None:
    newer, other = record(Action.SUSPENDED), record(Action.ACTIVATED)
    world = World(newer)
    with pytest.raises(LedgerBehindToken):
        await world.materials._ledger._follow(other)
    assert world.hsm.top == Head.of(newer["status"], CLUSTER).encode()


@pytest.mark.parametrize("what", ["claim", "head"])
async def test_nothing_is_written_to_the_token_for_a_record_that_moved(what: str) -> None:
    of = record()
    world = World(of)
    world.hsm.owners, world.hsm.top = (frozenset(), world.hsm.top) if what == "claim" else (world.hsm.owners, None)
    world.moved = True
    with pytest.raises(Conflict):
        await world.look(of)
    assert not {"set_claim", "set_head"} & set(world.hsm.asked)


@pytest.mark.parametrize("surveyed", [False, True])
async def test_guards_that_were_there_and_cannot_be_seen_stop_everything(surveyed: bool) -> None:
    of = record()
    world = World(of)
    world.hsm.keeps_data = False
    assert "check_value" in await world.look(of), "a token that never kept any"
    of["status"]["token"] = {"dataObjects": True}
    if surveyed:
        await world.materials.look_over()
    with pytest.raises(TokenBroken, match="kept data objects"):
        await world.look(of, generation=2)
