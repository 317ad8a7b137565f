"""Admission of Secrets: modes of a KeyAuthorization, what is held, and how a Secret moves to another key."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from keyshred.envelope.format import parse
from keyshred.errors import HsmUnavailable, KeyNotUsable, PolicyNotFresh, Refused
from keyshred.names import (
    ANNOTATION_ENVELOPE,
    ANNOTATION_LAST_APPLIED,
    HELD_ALL,
    LABEL_KEY_ID,
    LABEL_KEY_VERSION,
    LABEL_ROOT_KEY,
    LABEL_SEALING,
    KeyState,
)
from tests.unit.fakes import KEY_A, KEY_B, authorization, root_key
from tests.unit.webhook.admission import Cluster, Json, applied_with, plaintext, secret

RELEASE = root_key(), authorization(mode="Release")
PREVIEW = root_key(), authorization(mode="Preview")
UNSEAL_ONLY = root_key(), authorization(operations=["Unseal"])
TWO = (root_key(), root_key("rk2", KEY_B), authorization(), authorization("ka2", root_key="rk2", key_id=KEY_B))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def assert_plain(stored: Json, **values: bytes) -> None:
    """In plaintext, without anything of an envelope."""
    assert stored["data"] == secret(values)["data"]
    meta = stored["metadata"]
    assert ANNOTATION_ENVELOPE not in (meta.get("annotations") or {})
    assert not {LABEL_KEY_ID, LABEL_KEY_VERSION} & set(meta.get("labels") or {})


# --- Preview, Unseal alone, Release


@pytest.mark.parametrize("objects", [PREVIEW, UNSEAL_ONLY, RELEASE], ids=["Preview", "Unseal", "Release"])
async def test_new_secrets_stay_as_they_are(objects: tuple[Json, ...]) -> None:
    cluster = Cluster(*objects)
    new = secret(a=b"one", annotations=applied_with({"a": b"one"}))
    assert await cluster.write(new) == new
    assert await cluster.write(secret(a=b"two"), new) == secret(a=b"two")
    assert cluster.token.calls == []


async def test_preview_counts_for_nothing_beside_one_that_seals() -> None:
    second = authorization("ka2", root_key="rk2", key_id=KEY_B, mode="Preview")
    cluster = Cluster(root_key(), root_key("rk2", KEY_B), authorization(), second)
    assert await cluster.opened(await cluster.write(secret(a=b"one"))) == {"a": b"one"}
    with pytest.raises(Refused, match=r"authorised: rk$"):
        await cluster.write(secret(a=b"one", labels={LABEL_ROOT_KEY: "rk2"}))


async def test_unseal_alone_keeps_what_is_sealed(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.set(*UNSEAL_ONLY)
    assert await cluster.write(plaintext(stored, a=b"one", b=b"two"), stored) == stored
    for manifest in (plaintext(stored, a=b"one", b=b"new"), plaintext(stored, a=b"one", b=b"two", c=b"3")):
        with pytest.raises(Refused, match="no KeyAuthorization in force covers"):
            await cluster.write(manifest, stored)
    cluster.set(root_key(), authorization(operations=["Unseal"], reapply="AlwaysReseal"))
    with pytest.raises(Refused, match="no KeyAuthorization in force covers"):
        await cluster.write(plaintext(stored, a=b"one", b=b"two"), stored)


async def test_preview_reads_nothing_and_so_compares_nothing(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(*PREVIEW)
    cluster.token.calls.clear()
    with pytest.raises(Refused, match="no KeyAuthorization in force covers"):
        await cluster.write(plaintext(stored, a=b"one"), stored)
    assert cluster.token.calls == []


@pytest.mark.parametrize("values", [{"a": b"one", "b": b"two"}, {"a": b"new"}], ids=["the same", "others"])
async def test_plaintext_over_a_released_secret_is_stored_as_it_is(cluster: Cluster, values: dict[str, bytes]) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.set(*RELEASE)
    cluster.token.error = HsmUnavailable("away")
    applied = applied_with(values)
    manifest = plaintext(stored, **values)
    manifest["metadata"] = manifest["metadata"] | {"annotations": stored["metadata"]["annotations"] | applied}
    released = await cluster.write(manifest, stored)
    assert_plain(released, **values)
    # As of a Secret that nobody seals: the same text comes back at the next `kubectl apply`.
    assert released["metadata"]["annotations"] == {ANNOTATION_LAST_APPLIED: applied[ANNOTATION_LAST_APPLIED]}
    assert LABEL_ROOT_KEY not in released["metadata"]["labels"]
    assert (await cluster.answer(released, released)).patch == []


async def test_ciphertext_stays_sealed_until_it_is_released(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.set(*RELEASE)
    assert await cluster.write(stored, stored) == stored
    assert await cluster.write(stored) == stored, "a restore"
    mixed = stored | {"data": stored["data"] | secret(b=b"two")["data"]}
    assert await cluster.write(mixed, stored) == stored, "equal plaintext"
    added = await cluster.write(stored | {"data": stored["data"] | secret(b=b"new", c=b"3")["data"]}, stored)
    assert await cluster.opened(added) == {"a": b"one", "b": b"new", "c": b"3"}


async def test_a_key_that_is_suspended_can_be_released_by_who_has_the_plaintext(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key(suspended=True), authorization(mode="Release"))
    assert_plain(await cluster.write(plaintext(stored, a=b"one"), stored), a=b"one")


async def test_one_that_seals_beats_one_that_releases(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key(), authorization(), authorization("ka2", mode="Release"))
    assert await cluster.opened(await cluster.write(plaintext(stored, a=b"new"), stored)) == {"a": b"new"}
    labelled = secret(name="t", a=b"x", labels={LABEL_ROOT_KEY: "rk"})
    cluster.set(root_key(), authorization("ka2", mode="Release"), authorization())
    assert await cluster.opened(await cluster.write(labelled)) == {"a": b"x"}
    # Also one that was given for an earlier key: what it protected must not become plaintext by that.
    cluster.set(root_key(key_id=KEY_B), authorization(), authorization("ka2", key_id=KEY_B, mode="Release"))
    with pytest.raises(KeyNotUsable, match="earlier key"):
        await cluster.write(secret(name="new", a=b"new"))


async def test_what_another_key_is_to_seal_is_not_released() -> None:
    cluster = Cluster(*TWO)
    stored = await cluster.write(secret(a=b"one", labels={LABEL_ROOT_KEY: "rk2"}))
    cluster.set(*TWO[:3], authorization("ka2", root_key="rk2", key_id=KEY_B, mode="Release"))
    assert await cluster.write(plaintext(stored, a=b"one"), stored) == stored
    assert await cluster.opened(await cluster.write(plaintext(stored, a=b"new"), stored)) == {"a": b"new"}
    with pytest.raises(Refused, match=r"in mode Release; authorised: rk$"):
        await cluster.write(secret(name="t", a=b"x", labels={LABEL_ROOT_KEY: "rk2"}))
    assert await cluster.opened(await cluster.write(secret(name="t", a=b"x"))) == {"a": b"x"}, "no label: rk"
    moved = await cluster.write(relabelled(stored, "rk"), stored)
    assert await cluster.opened(moved) == {"a": b"one"} and moved["metadata"]["labels"][LABEL_KEY_ID] == str(KEY_A)


# --- the namespace's label, and what is held


@pytest.mark.parametrize("held", [{HELD_ALL}, {"s", "t"}])
async def test_held_secrets_stay_unsealed_and_say_so(held: set[str]) -> None:
    cluster = Cluster(held={"ns": frozenset(held)})
    new = secret(a=b"one")
    assert await cluster.write(new) == new
    assert "Secret ns/s was stored in plaintext: it is held" in cluster.warnings[0]
    assert await cluster.write(secret(a=b"two"), new) == secret(a=b"two")
    if HELD_ALL not in held:
        assert await cluster.opened(await cluster.write(secret(name="free", a=b"x"))) == {"a": b"x"}
        assert cluster.warnings == ()


async def test_an_envelope_of_no_use_does_not_stay_on_a_held_secret(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    held = Cluster(held={"ns": frozenset({"s"})})
    assert_plain(await held.write(plaintext(stored, a=b"one")), a=b"one")


async def test_what_is_sealed_is_never_held(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key(), authorization(), held={"ns": frozenset({HELD_ALL, "s"})})
    assert await cluster.opened(await cluster.write(plaintext(stored, a=b"new"), stored)) == {"a": b"new"}
    assert await cluster.write(stored) == stored, "a restore"
    # Ciphertext that lost its envelope while the webhook was away: damaged, but sealed.
    bare = stored | {"metadata": {"name": "s"}}
    assert await cluster.opened(await cluster.write(plaintext(bare, a=b"new"), bare)) == {"a": b"new"}
    assert cluster.warnings == ()


async def test_a_secret_that_was_emptied_is_still_sealed_afterwards(cluster: Cluster) -> None:
    """Its envelope went with its last value, so it counts as never sealed: nothing native can have read ciphertext."""
    stored = await cluster.write(secret(a=b"one"))
    emptied = await cluster.write(stored | {"data": {}}, stored)
    assert await cluster.opened(await cluster.write(secret(a=b"new"), emptied)) == {"a": b"new"}


async def test_a_retained_namespace_seals_nothing_new(cluster: Cluster) -> None:
    """A KeyAuthorization is seen before the label that its controller sets together with what is held."""
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key(), authorization(), namespaces={"ns": {LABEL_SEALING: "retained"}})
    new = secret(name="new", a=b"one")
    assert await cluster.write(new) == new
    assert await cluster.opened(await cluster.write(plaintext(stored, a=b"new"), stored)) == {"a": b"new"}


async def test_a_label_that_only_the_api_server_has_seen() -> None:
    cluster = Cluster(root_key(), authorization(), namespaces={"ns": {}})
    with pytest.raises(PolicyNotFresh, match="newest labels of the namespace ns"):
        await cluster.write(secret(a=b"one"))


# --- moving to another key


def relabelled(stored: Json, name: str = "rk2", data: Mapping[str, bytes] | None = None) -> Json:
    """The stored Secret with another RootKey's label; with values in plaintext where they are given."""
    meta = stored["metadata"] | {"labels": stored["metadata"]["labels"] | {LABEL_ROOT_KEY: name}}
    return stored | {"metadata": meta, "data": stored["data"] | secret(data)["data"]}


@pytest.mark.parametrize("data", [{}, {"a": b"new"}, {"a": b"new", "b": b"newer"}, {"c": b"3"}])
async def test_a_secret_moves(cluster: Cluster, data: dict[str, bytes]) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.set(*TWO)
    moved = await cluster.write(relabelled(stored, data=data), stored)
    assert await cluster.opened(moved) == {"a": b"one", "b": b"two"} | data
    old, new = (parse(s["metadata"]["annotations"][ANNOTATION_ENVELOPE]) for s in (stored, moved))
    assert (new.key_id, new.born, new.born_at) == (KEY_B, old.born, old.born_at)
    assert new.commit != old.commit and not set(moved["data"].values()) & set(stored["data"].values())
    assert (
        moved["metadata"]["labels"] | {LABEL_ROOT_KEY: "rk2", LABEL_KEY_ID: str(KEY_B)} == moved["metadata"]["labels"]
    )
    # And back, by a restore of what it was.
    assert await cluster.write(stored, moved) == stored
    assert (await cluster.answer(moved, moved)).patch == []


async def test_a_label_that_names_the_same_key_moves_nothing(cluster: Cluster) -> None:
    """A RootKey that adopted the key under another name."""
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key("rk2", KEY_A), authorization("ka2", root_key="rk2"))
    cluster.token.calls.clear()
    moved = await cluster.write(relabelled(stored), stored)
    assert moved["data"] == stored["data"] and moved["metadata"]["labels"][LABEL_ROOT_KEY] == "rk2"
    assert cluster.token.calls == []


OLD, NEW, GIVES_OLD, GIVES_NEW = TWO


@pytest.mark.parametrize(
    ("objects", "records", "reason"),
    [
        ((OLD, NEW, GIVES_OLD), {}, "names a RootKey that no KeyAuthorization gives this Secret; authorised: rk"),
        ((OLD, NEW, GIVES_NEW), {}, "no KeyAuthorization gives it the key that it is sealed under, RootKey rk"),
        ((OLD, NEW), {}, "no KeyAuthorization gives it the key"),
        ((NEW, GIVES_OLD, GIVES_NEW), {}, "held by no RootKey, and both keys must be Active"),
        ((root_key(suspended=True), NEW, GIVES_OLD, GIVES_NEW), {}, "is Suspended, and both keys must be Active"),
        ((NEW, GIVES_OLD, GIVES_NEW), {KEY_A: KeyState.DESTROYED}, "is Destroyed, and both keys must be Active"),
        ((OLD, root_key("rk2", KEY_B, suspended=True), GIVES_OLD, GIVES_NEW), {}, "RootKey rk2 is Suspended"),
        ((OLD, GIVES_OLD, GIVES_NEW), {}, "RootKey rk2 of KeyAuthorization ka2 does not exist"),
        (
            (OLD, NEW, GIVES_OLD, authorization("ka2", root_key="rk2", key_id=KEY_B, mode="Release")),
            {},
            "no KeyAuthorization in force seals under that key here",
        ),
    ],
)
@pytest.mark.parametrize("data", [{}, {"a": b"new", "b": b"new"}], ids=["ciphertext", "plaintext"])
async def test_a_secret_stays_where_one_key_is_missing(
    cluster: Cluster, objects: tuple[Json, ...], records: Any, reason: str, data: dict[str, bytes]
) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.set(*objects, records=records)
    cluster.token.calls.clear()
    with pytest.raises((Refused, KeyNotUsable), match=reason):
        await cluster.write(relabelled(stored, data=data), stored)
    assert cluster.token.calls == []


async def test_an_immutable_secret_cannot_move(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one") | {"immutable": True})
    cluster.set(*TWO)
    with pytest.raises(Refused, match="it is immutable"):
        await cluster.write(relabelled(stored), stored)


async def test_a_move_takes_along_only_what_opens(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    damaged = stored | {"data": stored["data"] | {"b": base64.b64encode(b"KSH1" + bytes(40)).decode()}}
    cluster.set(*TWO)
    with pytest.raises(Refused, match=r"data\[b\] is sealed but does not open"):
        await cluster.write(relabelled(damaged), damaged)


async def test_a_key_that_is_suspended_while_the_token_works_moves_nothing(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(*TWO)
    unwrap = cluster.token.unwrap

    async def slow(*arguments: Any) -> bytes:
        cluster.set(root_key(suspended=True), *TWO[1:])
        return await unwrap(*arguments)

    cluster.token.unwrap = slow  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyNotUsable, match="Suspended"):
        await cluster.write(relabelled(stored), stored)


# --- counting


async def test_each_wrap_is_counted_before_it_is_made(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"), dry_run=True)
    await cluster.write(plaintext(stored, a=b"one"), stored)
    assert cluster.uncounted.taken == cluster.token.calls.count("wrap") == 1
    cluster.token.error = HsmUnavailable("away")
    with pytest.raises(HsmUnavailable):
        await cluster.write(plaintext(stored, a=b"new"), stored)


async def test_a_version_that_is_to_be_rotated_says_so(cluster: Cluster) -> None:
    cluster.uncounted.due = True
    stored = await cluster.write(secret(a=b"one"))
    assert "RootKey rk has wrapped 2^30 data keys or more under its version 1" in cluster.warnings[0]
    await cluster.write(plaintext(stored, a=b"one"), stored)
    assert cluster.warnings == (), "nothing was wrapped"
