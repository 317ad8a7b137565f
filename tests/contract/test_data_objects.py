"""Claims of clusters and the head of the ledger, kept as data objects."""

from uuid import uuid4

import pytest

from keyshred.errors import KeyAmbiguous, NotSupported
from keyshred.hsm.interface import MAX_HEAD, KeyRef
from keyshred.hsm.service import HsmService
from tests.contract.conftest import Token, Wrapped


@pytest.fixture(autouse=True)
async def _keeps_data_objects(hsm: HsmService, token: Token) -> None:
    assert (await hsm.status()).data_objects is token.data_objects
    if not token.data_objects:
        with pytest.raises(NotSupported):
            await hsm.claims(uuid4())
        pytest.skip("the token keeps no data objects")


async def test_clusters_claim_a_key_each_for_itself(hsm: HsmService, token: Token, ref: KeyRef) -> None:
    other = KeyRef(uuid4(), 1).key_id
    assert await hsm.claims(ref.key_id) == frozenset()

    for uid in ("one", "two", "one"):
        await hsm.set_claim(ref.key_id, uid, True)
    assert await hsm.claims(ref.key_id) == {"one", "two"}
    assert await hsm.claims(other) == frozenset()

    for _ in range(2):
        await hsm.set_claim(ref.key_id, "one", False)
    await hsm.close()
    fresh = token.start()
    try:
        assert await fresh.claims(ref.key_id) == {"two"}
    finally:
        await fresh.close()


async def test_a_head_replaces_the_one_before(hsm: HsmService, token: Token, ref: KeyRef) -> None:
    assert await hsm.head(ref.key_id) is None
    for head in (b"one", b"", bytes(range(256)) * 2, b"two", b"two"):
        await hsm.set_head(ref.key_id, head)
        assert await hsm.head(ref.key_id) == head
    assert await hsm.head(uuid4()) is None
    assert len(token.ask_stranger("notes", ref.key_id)) == 1

    with pytest.raises(ValueError, match="512"):
        await hsm.set_head(ref.key_id, bytes(MAX_HEAD + 1))
    await hsm.close()
    fresh = token.start()
    try:
        assert await fresh.head(ref.key_id) == b"two"
    finally:
        await fresh.close()


async def test_nobody_sees_them_who_is_not_logged_in_and_their_labels_are_fixed(
    hsm: HsmService, token: Token, ref: KeyRef
) -> None:
    await hsm.set_claim(ref.key_id, "uid", True)
    await hsm.set_head(ref.key_id, b"head")
    notes = token.ask_stranger("notes", ref.key_id)
    assert sorted(notes, key=lambda note: str(note["label"])) == [
        {"label": f"keyshred-claim:{ref.key_id}:uid", "application": "keyshred", "private": True, "value": ""},
        {
            "label": f"keyshred-head:{ref.key_id}",
            "application": "keyshred",
            "private": True,
            "value": (bytes(8) + b"head").hex(),
        },
    ]


async def test_of_two_heads_the_later_one_counts_and_the_next_one_clears_up(
    hsm: HsmService, token: Token, ref: KeyRef
) -> None:
    # What a controller leaves that is killed between the new head and the end of the old one.
    await hsm.set_head(ref.key_id, b"old")
    token.ask_stranger("note", f"keyshred-head:{ref.key_id}", ((1).to_bytes(8, "big") + b"new").hex())
    assert await hsm.head(ref.key_id) == b"new"

    await hsm.set_head(ref.key_id, b"next")
    assert await hsm.head(ref.key_id) == b"next"
    assert len(token.ask_stranger("notes", ref.key_id)) == 1


async def test_two_heads_that_contradict_each_other_are_a_persons_business(
    hsm: HsmService, token: Token, ref: KeyRef
) -> None:
    await hsm.set_head(ref.key_id, b"one")
    token.ask_stranger("note", f"keyshred-head:{ref.key_id}", (bytes(8) + b"two").hex())
    with pytest.raises(KeyAmbiguous):
        await hsm.head(ref.key_id)
    with pytest.raises(KeyAmbiguous):
        await hsm.set_head(ref.key_id, b"three")


async def test_the_end_of_a_key_leaves_its_claims_and_its_head(
    hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    await hsm.set_claim(ref.key_id, "uid", True)
    await hsm.set_head(ref.key_id, b"head")

    assert await hsm.destroy(ref.key_id) == 1

    assert await hsm.find(ref.key_id) == ()
    assert await hsm.claims(ref.key_id) == {"uid"}
    assert await hsm.head(ref.key_id) == b"head"


async def test_a_survey_says_of_all_keys_what_is_said_of_each(hsm: HsmService, token: Token, ref: KeyRef) -> None:
    other = KeyRef(uuid4(), 1).key_id
    await hsm.generate(KeyRef(ref.key_id, 2))
    for key_id, cluster in ((ref.key_id, "one"), (ref.key_id, "two"), (other, "one")):
        await hsm.set_claim(key_id, cluster, True)
    for head in (b"first", b"second"):
        await hsm.set_head(ref.key_id, head)
    try:
        seen = await hsm.survey()
        assert seen.keys[ref.key_id] == await hsm.find(ref.key_id) == (ref, KeyRef(ref.key_id, 2))
        assert seen.claims[ref.key_id] == await hsm.claims(ref.key_id) == {"one", "two"}
        assert seen.claims[other] == {"one"}
        assert seen.heads[ref.key_id] == await hsm.head(ref.key_id) == b"second"
        assert other not in seen.keys.keys() | seen.heads.keys()
    finally:
        await hsm.set_claim(other, "one", False)
