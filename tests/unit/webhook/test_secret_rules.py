"""Admission of Secrets: key states, what is left alone, which key, and how often may be compared."""

import base64
import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest

from keyshred.envelope.format import parse, serialise
from keyshred.errors import (
    HsmUnavailable,
    KeyMissing,
    KeyNotUsable,
    KeyshredError,
    Malformed,
    PolicyNotFresh,
    Refused,
    TokenMismatch,
)
from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_LAST_APPLIED, LABEL_KEY_ID, LABEL_ROOT_KEY, KeyState
from tests.unit.fakes import KEY_A, KEY_B, NOW, SEALING, authorization, root_key
from tests.unit.webhook.admission import Cluster, Json, applied_with, plaintext, secret

PAST = (NOW - timedelta(seconds=1)).isoformat()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# --- key states

_STATES: dict[KeyState, tuple[Json, ...]] = {
    KeyState.PRE_ACTIVATION: (root_key(state="PreActivation"),),
    KeyState.ACTIVE: (root_key(),),
    KeyState.SUSPENDED: (root_key(suspended=True),),
    KeyState.DEACTIVATED: (root_key(expirationTime=PAST),),
    KeyState.PENDING_DESTRUCTION: (root_key(deleting=True),),
    KeyState.DESTROYED: (),
}
_SEALS = {KeyState.ACTIVE}
_OPENS = {KeyState.ACTIVE, KeyState.DEACTIVATED}


async def in_state(state: KeyState) -> tuple[Cluster, Json]:
    """A cluster with one sealed Secret (a=one), whose key is then in the state."""
    cluster = Cluster()
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    records = {KEY_A: KeyState.DESTROYED} if state is KeyState.DESTROYED else {}
    cluster.set(*_STATES[state], authorization(), records=records)
    return cluster, stored


@pytest.mark.parametrize("state", KeyState)
async def test_create_needs_an_active_key(state: KeyState) -> None:
    cluster, _ = await in_state(state)
    if state in _SEALS:
        await cluster.write(secret(name="new", a=b"x"))
    else:
        with pytest.raises(KeyNotUsable):
            await cluster.write(secret(name="new", a=b"x"))


@pytest.mark.parametrize("state", KeyState)
@pytest.mark.parametrize("b", [b"two", b"changed"])
async def test_plaintext_over_ciphertext(state: KeyState, b: bytes) -> None:
    cluster, stored = await in_state(state)
    manifest = plaintext(stored, a=b"one", b=b)
    if state in (_OPENS if b == b"two" else _SEALS):
        assert (await cluster.write(manifest, stored) == stored) is (b == b"two")
    else:
        with pytest.raises(KeyNotUsable):
            await cluster.write(manifest, stored)


@pytest.mark.parametrize("state", KeyState)
async def test_restore(state: KeyState) -> None:
    cluster, stored = await in_state(state)
    if state is KeyState.DESTROYED:
        assert await cluster.write(stored) == stored
        assert "unverified" in cluster.warnings[0]
    elif state in _OPENS:
        assert await cluster.write(stored) == stored
        assert cluster.warnings == ()
    else:
        with pytest.raises(KeyNotUsable):
            await cluster.write(stored)


@pytest.mark.parametrize("state", KeyState)
async def test_unchanged_ciphertext_always_passes(state: KeyState) -> None:
    """Finalizers and ownerReferences, without the HSM and without a policy."""
    cluster, stored = await in_state(state)
    cluster.token.error = HsmUnavailable("away")
    cluster.snapshot.now = None
    fields: Json
    for fields in ({"finalizers": ["x"]}, {"ownerReferences": [{}]}, {"deletionTimestamp": PAST}):
        touched = stored | {"metadata": stored["metadata"] | fields}
        assert await cluster.write(touched, stored) == touched
        assert await cluster.write(stored, touched) == stored


async def test_a_restore_under_a_destroyed_key_beside_its_successor(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    successor = root_key("rk2", KEY_B), authorization(root_key="rk2", key_id=KEY_B)
    cluster.set(*successor, records={KEY_A: KeyState.DESTROYED})
    assert await cluster.write(stored) == stored
    assert "unverified" in cluster.warnings[0]


async def test_plaintext_in_a_restore_under_a_destroyed_key_is_refused(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(authorization(), records={KEY_A: KeyState.DESTROYED})
    with pytest.raises(KeyshredError):
        await cluster.write(stored | {"data": stored["data"] | secret(b=b"plain")["data"]})


async def test_a_key_that_is_suspended_while_the_token_works(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    unwrap = cluster.token.unwrap

    async def slow(*arguments: Any) -> bytes:
        cluster.set(root_key(suspended=True), authorization())
        return await unwrap(*arguments)

    cluster.token.unwrap = slow  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyNotUsable, match="Suspended"):
        await cluster.write(plaintext(stored, a=b"one"), stored)


@pytest.mark.parametrize("error", [HsmUnavailable("away"), KeyMissing("gone")])
async def test_without_the_token_nothing_is_stored(cluster: Cluster, error: Exception) -> None:
    cluster.token.error = error
    with pytest.raises(type(error)):
        await cluster.write(secret(a=b"one"))


async def test_a_token_with_another_key_seals_nothing(cluster: Cluster) -> None:
    cluster.token.check = bytes(16)
    with pytest.raises(TokenMismatch):
        await cluster.write(secret(a=b"one"))
    assert "wrap" not in cluster.token.calls


# --- what is not sealed


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "DELETE"},
        {"operation": "CONNECT"},
        {"namespace": "kube-system"},
        {"namespace": "keyshred"},
    ],
)
async def test_passes_untouched(fields: Json) -> None:
    names = ["kube-system", "keyshred", "ns"]
    cluster = Cluster(root_key(), authorization(namespaces={"names": names}), namespaces=dict.fromkeys(names, SEALING))
    assert not (await cluster.answer(secret(a=b"one"), **fields)).patch


@pytest.mark.parametrize("secret_type", ["kubernetes.io/dockerconfigjson", "helm.sh/release.v1"])
async def test_types_that_are_never_sealed(cluster: Cluster, secret_type: str) -> None:
    cluster.snapshot.now = None
    assert (await cluster.answer(secret(a=b"one") | {"type": secret_type})).patch == ()


async def test_tls_is_sealed_only_where_it_is_named(cluster: Cluster) -> None:
    tls = secret(a=b"one") | {"type": "kubernetes.io/tls"}
    assert await cluster.write(tls) == tls
    cluster.set(root_key(), authorization(secrets={"types": ["kubernetes.io/tls"]}))
    assert await cluster.opened(await cluster.write(tls)) == {"a": b"one"}


async def test_what_nobody_wants_sealed_is_stored_as_it_is() -> None:
    cluster = Cluster(root_key())
    new = secret(a=b"one", annotations={ANNOTATION_LAST_APPLIED: '{"data":{"a":"b25l"}}'})
    assert await cluster.write(new) == new


@pytest.mark.parametrize("namespaces", [{}, {"ns": {}}, {"other": SEALING}])
async def test_a_namespace_that_we_do_not_know_as_sealing_gets_no_plaintext(namespaces: Json) -> None:
    """The API server asks only for namespaces with the label: our view is the old one."""
    selected = authorization(namespaces={"selector": {"matchLabels": {"team": "a"}}})
    with pytest.raises(PolicyNotFresh, match="namespace ns"):
        await Cluster(root_key(), selected, namespaces=namespaces).write(secret(a=b"one"))


async def test_without_a_policy_nothing_is_stored(cluster: Cluster) -> None:
    cluster.snapshot.now = None
    with pytest.raises(PolicyNotFresh):
        await cluster.write(secret(a=b"one"))


@pytest.mark.parametrize(
    ("meta", "fields"), [({"deletionTimestamp": PAST}, {}), ({}, {"immutable": True})], ids=["deleting", "immutable"]
)
async def test_never_sealed_and_not_to_be(cluster: Cluster, meta: Json, fields: Json) -> None:
    cluster.snapshot.now = None
    old = secret(a=b"one") | fields
    new = old | {"metadata": old["metadata"] | meta}
    assert await cluster.write(new, old) == new


@pytest.mark.parametrize("keys", [1, 5000])
async def test_a_finalizer_comes_off_what_cannot_be_sealed(cluster: Cluster, keys: int) -> None:
    data = {f"k{n}": b"KSH1 not ours" for n in range(keys)}
    old = secret(data)
    new = old | {"metadata": old["metadata"] | {"finalizers": []}}
    assert await cluster.write(new, old) == new


async def test_the_sweep_is_told_what_it_cannot_seal(cluster: Cluster) -> None:
    old = secret({"a": b"plain", "b": b"KSH1 not ours"})
    with pytest.raises(Refused, match=r"data\[b\] starts with KSH1"):
        await cluster.write(old, old)
    going = old | {"metadata": old["metadata"] | {"deletionTimestamp": PAST}}
    assert await cluster.write(going, going) == going


async def test_an_operation_without_its_objects(cluster: Cluster) -> None:
    for new, operation in ((None, "CREATE"), (None, "UPDATE"), (secret(), "UPDATE")):
        with pytest.raises(Malformed):
            await cluster.answer(new, operation=operation)


async def test_too_many_keys(cluster: Cluster) -> None:
    with pytest.raises(Refused, match="4097 keys"):
        await cluster.write(secret({f"k{n}": b"x" for n in range(4097)}))


async def test_too_large(cluster: Cluster) -> None:
    with pytest.raises(Refused, match=r"sealing adds 32 bytes to each of 1 values: 1048576 \+ 32 bytes pass .* by 32"):
        await cluster.write(secret(a=bytes(1024 * 1024)))


async def test_names_that_kubernetes_would_refuse(cluster: Cluster) -> None:
    """It validates after us."""
    for bad in (secret(name="No_Name", a=b"x"), secret() | {"data": {"a/b": "eA=="}}):
        with pytest.raises(Malformed):
            await cluster.write(bad)


# --- labels, conflicts, uncovered


TWO = (root_key(), root_key("rk2", KEY_B), authorization(), authorization("ka2", root_key="rk2", key_id=KEY_B))


async def test_the_label_chooses_between_two_keys() -> None:
    cluster = Cluster(*TWO)
    with pytest.raises(Refused, match="choose one with the label"):
        await cluster.write(secret(a=b"one"))
    stored = await cluster.write(secret(a=b"one", labels={LABEL_ROOT_KEY: "rk2"}))
    assert stored["metadata"]["labels"][LABEL_KEY_ID] == str(KEY_B)


async def test_a_second_key_later_does_not_trouble_what_is_sealed(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(*TWO)
    changed = await cluster.write(secret(a=b"two"), stored)
    assert changed["metadata"]["labels"][LABEL_ROOT_KEY] == "rk"
    assert changed["metadata"]["labels"][LABEL_KEY_ID] == str(KEY_A)


async def test_an_unsealed_secret_may_choose_anew_when_it_is_adopted() -> None:
    cluster = Cluster(*TWO)
    old = secret(a=b"one", labels={LABEL_ROOT_KEY: "rk"})
    stored = await cluster.write(secret(a=b"one", labels={LABEL_ROOT_KEY: "rk2"}), old)
    assert stored["metadata"]["labels"][LABEL_ROOT_KEY] == "rk2"
    assert stored["metadata"]["labels"][LABEL_KEY_ID] == str(KEY_B)


async def test_uncovered(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.set(root_key())
    assert await cluster.write(stored) == stored
    # The same plaintext too: to compare would be to unseal, and that was revoked.
    for manifest in (plaintext(stored, a=b"one", b=b"two"), plaintext(stored, a=b"one", b=b"two", c=b"new")):
        with pytest.raises(Refused, match="no KeyAuthorization in force covers"):
            await cluster.write(manifest, stored)


async def test_a_restore_under_a_key_that_another_one_replaced(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key("old"), root_key(key_id=KEY_B), authorization(key_id=KEY_B))
    with pytest.raises(Refused, match="the KeyAuthorization that covers it, ka, is for another one"):
        await cluster.write(stored)


async def test_values_under_two_keys_are_refused(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key("old"), root_key(key_id=KEY_B), authorization(key_id=KEY_B))
    added = stored | {"data": stored["data"] | secret(b=b"two")["data"]}
    with pytest.raises(Refused, match="sealed under another key than RootKey rk"):
        await cluster.write(added, stored)
    # All in plaintext: a new DEK, under the key of today.
    moved = await cluster.write(plaintext(stored, a=b"new"), stored)
    assert moved["metadata"]["labels"][LABEL_KEY_ID] == str(KEY_B)


# --- comparing


async def test_the_compare_limit(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    for guess in range(10):
        await cluster.write(plaintext(stored, a=b"guess %d" % guess), stored)
    right = plaintext(stored, a=b"one")
    assert await cluster.write(right, stored) != stored  # sealed fresh: the guesser learns nothing
    assert await cluster.write(right, stored, user="another") == stored
    cluster.clock = 3601
    assert await cluster.write(right, stored) == stored


async def test_always_reseal(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key(), authorization(reapply="AlwaysReseal"))
    cluster.token.calls.clear()
    again = await cluster.write(plaintext(stored, a=b"one"), stored)
    assert again["data"] != stored["data"]
    assert "unwrap" not in cluster.token.calls
    assert await cluster.opened(again) == {"a": b"one"}


async def test_a_guess_under_a_key_that_is_no_longer_given_is_not_compared(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    cluster.set(root_key("old"), root_key(key_id=KEY_B), authorization(key_id=KEY_B))
    anew = await cluster.write(plaintext(stored, a=b"one"), stored)
    assert anew["metadata"]["labels"][LABEL_KEY_ID] == str(KEY_B)
    assert await cluster.opened(anew) == {"a": b"one"}


async def test_plaintext_over_a_dead_secret_is_sealed_under_the_new_key(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", b=b"two"))
    cluster.set(root_key(key_id=KEY_B), authorization(key_id=KEY_B), records={KEY_A: KeyState.DESTROYED})
    anew = await cluster.write(plaintext(stored, a=b"one", b=b"two"), stored)
    assert await cluster.opened(anew) == {"a": b"one", "b": b"two"}
    half = stored | {"data": stored["data"] | {"c": base64.b64encode(b"new").decode()}}
    with pytest.raises(Refused, match="sealed under another key"):
        await cluster.write(half, stored)


async def test_plaintext_over_a_damaged_envelope_is_sealed_anew(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    envelope = parse(stored["metadata"]["annotations"][ANNOTATION_ENVELOPE])
    text = serialise(dataclasses.replace(envelope, commit=bytes(16)))
    damaged = stored | {"metadata": stored["metadata"] | {"annotations": {ANNOTATION_ENVELOPE: text}}}
    anew = await cluster.write(plaintext(damaged, a=b"one"), damaged)
    assert await cluster.opened(anew) == {"a": b"one"}
    half = damaged | {"data": damaged["data"] | {"b": base64.b64encode(b"new").decode()}}
    with pytest.raises(Refused, match="its envelope does not open"):
        await cluster.write(half, damaged)


async def test_a_damaged_value_is_replaced(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one"))
    damaged = stored | {"data": {"a": base64.b64encode(b"KSH1" + bytes(40)).decode()}}
    healed = await cluster.write(plaintext(stored, a=b"one"), damaged)
    assert await cluster.opened(healed) == {"a": b"one"}


# --- last-applied


async def test_last_applied_never_has_a_value(cluster: Cluster) -> None:
    stored = await cluster.write(secret(a=b"one", annotations=applied_with({"a": b"one"})))
    assert json.loads(stored["metadata"]["annotations"][ANNOTATION_LAST_APPLIED])["data"] == {"a": ""}
    again = await cluster.write(secret(a=b"one", annotations=applied_with({"a": b"one"})), stored)
    assert again == stored
    emptied = await cluster.write(secret(annotations=applied_with({"a": b"one"})), secret())
    assert json.loads(emptied["metadata"]["annotations"][ANNOTATION_LAST_APPLIED])["data"] == {"a": ""}
