"""Admission of Secrets: what happens to each value, whatever comes in."""

import asyncio
import base64
import dataclasses
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.envelope.format import Born, parse, serialise
from keyshred.errors import (
    HsmUnavailable,
    KeyshredError,
    Refused,
)
from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_LAST_APPLIED, LABEL_KEY_ID, LABEL_ROOT_KEY
from keyshred.policy.secrets import decode_data
from tests.unit.fakes import KEY_A, root_key
from tests.unit.webhook.admission import Cluster, Json, applied_with, plaintext, secret


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# --- what happens to values


async def test_create(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", empty=b""))
    assert all(v.startswith(b"KSH1") for v in decode_data(stored).values())
    assert await cluster.opened(stored) == {"a": b"one", "empty": b""}
    assert stored["metadata"]["labels"][LABEL_ROOT_KEY] == "rk"
    assert stored["metadata"]["labels"][LABEL_KEY_ID] == str(KEY_A)
    envelope = parse(stored["metadata"]["annotations"][ANNOTATION_ENVELOPE])
    assert envelope.born is Born.SEALED


async def test_a_null_value_is_sealed_as_an_empty_one(cluster: Cluster) -> None:
    stored = await cluster.write(secret() | {"data": {"a": None}})
    assert await cluster.opened(stored) == {"a": b""}


async def test_generate_name_is_sealed_to_the_name_that_was_picked(cluster: Cluster) -> None:
    new = secret(a=b"one")
    new["metadata"] = {"generateName": "app-"}
    stored = await cluster.write(new)
    assert stored["metadata"]["name"].startswith("app-")
    assert await cluster.opened(stored) == {"a": b"one"}


async def test_re_applying_changes_nothing(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    for manifest in (plaintext(stored, a=b"one", b=b"two"), secret(a=b"one", b=b"two")):
        assert await cluster.write(manifest, stored) == stored
    assert "wrap" in cluster.token.calls
    assert cluster.token.calls.count("wrap") == 1


async def test_reinvocation_changes_nothing(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    assert (await cluster.answer(stored)).patch == []


async def test_a_label_never_reseals(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.token.calls.clear()
    labelled = stored | {"metadata": stored["metadata"] | {"labels": stored["metadata"]["labels"] | {"x": "y"}}}
    assert await cluster.write(labelled, stored) == labelled
    assert cluster.token.calls == []


async def test_a_changed_value_gets_a_fresh_nonce_and_the_others_their_old_bytes(cluster: Cluster) -> None:
    first = await cluster.write(secret(a=b"one", b=b"two"))
    second = await cluster.write(plaintext(first, a=b"one", b=b"new"), first)
    assert second["data"]["a"] == first["data"]["a"]
    assert await cluster.opened(second) == {"a": b"one", "b": b"new"}
    assert second["metadata"] == first["metadata"]
    assert cluster.token.calls.count("wrap") == 1


async def test_a_value_is_added_under_the_same_dek(cluster: Cluster) -> None:
    first = await cluster.write(secret(a=b"one"))
    added = first | {"data": first["data"] | secret(b=b"two")["data"]}
    second = await cluster.write(added, first)
    assert await cluster.opened(second) == {"a": b"one", "b": b"two"}
    assert second["metadata"] == first["metadata"]


async def test_a_new_dek_where_no_old_ciphertext_stays(cluster: Cluster) -> None:
    first = await cluster.write(secret(a=b"one"))
    second = await cluster.write(plaintext(first, a=b"two"), first)
    old, new = (parse(s["metadata"]["annotations"][ANNOTATION_ENVELOPE]) for s in (first, second))
    assert old.commit != new.commit
    assert (new.born, new.born_at) == (old.born, old.born_at)
    assert await cluster.opened(second) == {"a": b"two"}


async def test_a_removed_value_needs_no_key(cluster: Cluster) -> None:
    first = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.token.error = HsmUnavailable("away")
    fewer = first | {"data": {"a": first["data"]["a"]}}
    assert await cluster.write(fewer, first) == fewer
    emptied = await cluster.write(first | {"data": {}}, first)
    assert ANNOTATION_ENVELOPE not in emptied["metadata"]["annotations"]
    assert LABEL_KEY_ID not in emptied["metadata"]["labels"]


async def test_a_secret_that_was_there_is_adopted(cluster: Cluster) -> None:
    old = secret(a=b"one")
    stored = await cluster.write(secret(a=b"one", labels={"touched": "yes"}), old)
    envelope = parse(stored["metadata"]["annotations"][ANNOTATION_ENVELOPE])
    assert envelope.born is Born.ADOPTED
    assert await cluster.opened(stored) == {"a": b"one"}
    # Once adopted, always adopted: the DEK changes, the past does not.
    again = await cluster.write(plaintext(stored, a=b"new"), stored)
    after = parse(again["metadata"]["annotations"][ANNOTATION_ENVELOPE])
    assert (after.born, after.born_at) == (Born.ADOPTED, envelope.born_at)
    assert after.commit != envelope.commit


@pytest.mark.parametrize("annotation", [None, "x", "{}"])
async def test_a_damaged_envelope_is_put_back(cluster: Cluster, annotation: str | None) -> None:
    stored = await cluster.write(secret(a=b"one"))
    annotations = {} if annotation is None else {ANNOTATION_ENVELOPE: annotation}
    damaged = stored | {"metadata": stored["metadata"] | {"annotations": annotations, "labels": {}}}
    cluster.token.error = HsmUnavailable("away")
    assert await cluster.write(damaged, stored) == stored


# --- ciphertext that comes back


async def test_a_restore_is_admitted_whole(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    assert await cluster.write(stored) == stored
    assert cluster.warnings == ()


async def test_a_restore_over_a_later_state(cluster: Cluster) -> None:
    backup = await cluster.write(secret(a=b"one", b=b"two"))
    now = await cluster.write(plaintext(backup, a=b"new", b=b"new"), backup)
    assert await cluster.write(backup, now) == backup


async def test_one_value_is_rolled_back(cluster: Cluster) -> None:
    first = await cluster.write(secret(a=b"one", b=b"two"))
    second = await cluster.write(plaintext(first, a=b"new", b=b"two"), first)
    back = second | {"data": second["data"] | {"a": first["data"]["a"]}}
    stored = await cluster.write(back, second)
    assert await cluster.opened(stored) == {"a": b"one", "b": b"two"}


@pytest.mark.parametrize("change", ["name", "key", "swap", "dek", "flip", "no envelope"])
async def test_ciphertext_from_elsewhere_is_refused(cluster: Cluster, change: str) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    data, meta = stored["data"], stored["metadata"]
    match change:
        case "name":
            copy = stored | {"metadata": meta | {"name": "t"}}
        case "key":
            copy = stored | {"data": {"c": data["a"]}}
        case "swap":
            copy = stored | {"data": {"a": data["b"], "b": data["a"]}}
        case "dek":
            other = await cluster.write(secret(a=b"one", b=b"two"))
            copy = stored | {"data": data | {"a": other["data"]["a"]}}
        case "flip":
            raw = bytearray(base64.b64decode(data["a"]))
            raw[-1] ^= 1
            copy = stored | {"data": data | {"a": base64.b64encode(raw).decode()}}
        case _:
            copy = stored | {"metadata": {"name": "s"}}
    for old in (None, secret(a=b"one")):
        with pytest.raises(Refused):
            await cluster.write(copy, old)
    if change in ("swap", "dek", "flip"):
        with pytest.raises(Refused, match=r"data\[[ab]\] is sealed but does not open"):
            await cluster.write(copy, stored)


async def test_an_envelope_that_does_not_open(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    envelope = parse(stored["metadata"]["annotations"][ANNOTATION_ENVELOPE])
    forged = serialise(dataclasses.replace(envelope, wrapped_dek=bytes(60)))
    with pytest.raises(Refused, match="its envelope does not open"):
        await cluster.write(stored | {"metadata": stored["metadata"] | {"annotations": {ANNOTATION_ENVELOPE: forged}}})


async def test_a_value_that_only_looks_sealed(cluster: Cluster) -> None:
    with pytest.raises(Refused, match=r"data\[a\] starts with KSH1"):
        await cluster.write(secret(a=b"KSH1 is how this password begins"))


async def test_values_under_another_secrets_envelope_are_sealed_anew(cluster: Cluster) -> None:
    """A copy that slipped in while the webhook was away."""
    stored = await cluster.write(secret(name="t", a=b"one"))
    copy = stored | {"metadata": stored["metadata"] | {"name": "s"}}
    touched = copy | {"metadata": copy["metadata"] | {"finalizers": []}}
    assert await cluster.write(touched, copy) == touched  # with the values that it has, it passes
    healed = await cluster.write(plaintext(copy, a=b"one"), copy)
    assert await cluster.opened(healed) == {"a": b"one"}


# --- whatever comes in

_values = st.dictionaries(st.sampled_from("abc"), st.binary(max_size=6) | st.just(b"KSH1"), max_size=3)


@given(
    data=_values,
    old=st.none() | _values,
    mix=st.dictionaries(st.sampled_from("abc"), st.sampled_from("abc"), max_size=3),
    envelope=st.sampled_from(["keep", "drop", "damage", "other"]),
    applied=st.none() | _values | st.text(max_size=5),
    uncovered=st.booleans(),
)
def test_no_plaintext_is_ever_stored_under_an_authorisation(
    data: dict[str, bytes],
    old: dict[str, bytes] | None,
    mix: dict[str, str],
    envelope: str,
    applied: dict[str, bytes] | str | None,
    uncovered: bool,
) -> None:
    """What is admitted over what was admitted, with values in plaintext and in ciphertext, moved about, opens."""

    async def run() -> None:
        cluster = Cluster()
        stored: Json | None = None
        try:
            stored = await cluster.write(secret(old)) if old is not None else None
        except Refused:
            return
        new = secret(data)
        before = (stored or secret())["data"]
        new["data"] |= {to: before[source] for to, source in mix.items() if source in before}
        annotations = dict((stored or secret())["metadata"].get("annotations") or {})
        if envelope == "drop":
            annotations.pop(ANNOTATION_ENVELOPE, None)
        elif envelope == "damage":
            annotations[ANNOTATION_ENVELOPE] = "x"
        elif envelope == "other":
            annotations |= (await cluster.write(secret(z=b"z")))["metadata"]["annotations"]
        if isinstance(applied, dict):
            annotations |= applied_with(applied)
        elif applied is not None:
            annotations[ANNOTATION_LAST_APPLIED] = applied
        new["metadata"]["annotations"] = annotations
        if uncovered and stored is not None and stored["data"]:
            # What stays of the old Secret is sealed; nothing new may join it in plaintext.
            cluster.set(root_key())
        try:
            result = await cluster.write(new, stored)
        except KeyshredError:
            return
        plain = {k: cluster_plain(k, data, old, mix, before) for k in result["data"]}
        if result["data"] and not (uncovered and not (stored or {}).get("data")):
            assert await cluster.opened(result) == plain
            assert all(v.startswith(b"KSH1") for v in decode_data(result).values())
        text = result["metadata"]["annotations"].get(ANNOTATION_LAST_APPLIED)
        if text is not None:
            assert set(json.loads(text).get("data", {}).values()) <= {""}
        # And once more, as it was sent: nothing changes.
        if not uncovered:
            assert (await cluster.answer(result, result)).patch == []

    asyncio.run(run())


def cluster_plain(
    key: str, data: dict[str, bytes], old: dict[str, bytes] | None, mix: dict[str, str], before: Json
) -> bytes:
    """What a stored value must open to: moved ciphertext opens only in its own place."""
    if key in mix and mix[key] in before:
        assert mix[key] == key, "ciphertext of another key was admitted"
        return (old or {})[key]
    return data[key]


# --- nothing leaks

PLAIN = "cGxhaW50ZXh0LXRoYXQtbXVzdC1ub3QtbGVhaw=="
MARK = "plaintext-that-must-not-leak"


@pytest.mark.parametrize(
    "new",
    [
        {"metadata": {"name": "s"}, "data": {"a": PLAIN + "%"}},
        {"metadata": {"name": "S S"}, "data": {"a": PLAIN}},
        {"metadata": {"name": "s"}, "data": {"a/b": PLAIN}},
        {"metadata": {"name": "s"}, "data": PLAIN},
        {"metadata": PLAIN, "data": {"a": PLAIN}},
        {"metadata": {}, "data": {"a": PLAIN}},
        {"metadata": {"name": "s"}, "data": {"a": PLAIN}, "stringData": {"a": MARK}},
    ],
)
async def test_a_malformed_secret_shows_no_value(cluster: Cluster, new: Json, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(KeyshredError) as caught:
        await cluster.answer(new, operation="CREATE")
    shown = "".join(str(e) for e in (caught.value, caught.value.__cause__, caplog.text))
    assert MARK not in shown
    assert PLAIN[:20] not in shown
