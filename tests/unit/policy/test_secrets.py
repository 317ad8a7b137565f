"""The plan for each value, and the patch that writes it down."""

import base64
import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.envelope.format import Born, Envelope, Mechanism, serialise
from keyshred.errors import Malformed, Refused
from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_LAST_APPLIED, LABEL_KEY_ID, LABEL_KEY_VERSION, LABEL_ROOT_KEY
from keyshred.policy.secrets import (
    MAX_BYTES,
    Plan,
    Write,
    blank_last_applied,
    check_size,
    decode_data,
    generate_name,
    make_plan,
    patch,
    read_write,
)
from tests.unit.fakes import KEY_A, KEY_B, NOW

ENVELOPE = Envelope(
    KEY_A, 1, Mechanism.AES_GCM, bytes(60), bytes(16), "ns", "s", Born.SEALED, NOW.replace(microsecond=0)
)
OTHER = dataclasses.replace(ENVELOPE, key_id=KEY_B)
TEXT, OTHER_TEXT = serialise(ENVELOPE), serialise(OTHER)
FOREIGN_TEXT = serialise(dataclasses.replace(ENVELOPE, name="t"))
SEALED, SEALED2 = b"KSH1" + bytes(40), b"KSH1" + bytes(41)


def secret(data: dict[str, bytes] | None, envelope: str | None = None, **fields: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "s", "namespace": "ns"}
    if envelope is not None:
        meta["annotations"] = {ANNOTATION_ENVELOPE: envelope}
    encoded = None if data is None else {k: base64.b64encode(v).decode() for k, v in data.items()}
    return {"metadata": meta | fields.pop("metadata", {}), "data": encoded} | fields


def write(new: dict[str, Any], old: dict[str, Any] | None = None) -> Write:
    return read_write("ns", "s", new, old)


# --- decoding


def test_null_is_an_empty_value() -> None:
    assert decode_data({"data": {"a": None, "b": ""}}) == {"a": b"", "b": b""}
    assert decode_data({"data": None}) == {}


@pytest.mark.parametrize("value", ["%%%", "YQ", "ü", 5, 0, [], {}, True, "YQ==\n"])
def test_what_is_no_base64_names_the_key_alone(value: Any) -> None:
    with pytest.raises(Malformed) as caught:
        decode_data({"data": {"password": value}})
    assert str(caught.value) == "data[password] is not base64"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"metadata": None},
        {"metadata": []},
        {"metadata": {}},
        {"metadata": {"name": "s"}, "data": ["x"]},
        {"metadata": {"name": "s"}, "data": "x"},
        {"metadata": {"name": "s", "annotations": "x"}},
        {"metadata": {"name": "s"}, "stringData": {"a": "b"}},
    ],
)
def test_what_is_no_secret(obj: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        read_write("ns", "", obj, None)


def test_an_old_object_that_is_no_secret() -> None:
    with pytest.raises(Malformed):
        write(secret({}), {"metadata": {"labels": ["x"]}})


def test_generate_name() -> None:
    obj = {"metadata": {"generateName": "app-"}}
    w = read_write("ns", "", obj, None)
    assert w.generated
    assert re.fullmatch(r"app-[bcdfghjklmnpqrstvwxz2456789]{5}", w.name)
    assert patch(w, {}, None, "", None)[0] == {"op": "add", "path": "/metadata/name", "value": w.name}


def test_a_name_beats_generate_name() -> None:
    w = read_write("ns", "", {"metadata": {"name": "s", "generateName": "app-"}}, None)
    assert (w.name, w.generated) == ("s", False)


def test_generated_names_fit() -> None:
    assert len(generate_name("x" * 200)) == 63


# --- the plan


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        pytest.param(secret({"a": b"x"}), None, Plan(None, fresh=frozenset("a")), id="create"),
        pytest.param(secret({}), None, Plan(None), id="create empty"),
        pytest.param(secret({"a": b"x"}), secret({"a": b"x"}), Plan(None, fresh=frozenset("a")), id="adopt"),
        pytest.param(
            secret({"a": SEALED}, TEXT), secret({"a": SEALED}, TEXT), Plan(ENVELOPE, kept=frozenset("a")), id="same"
        ),
        pytest.param(
            secret({"a": SEALED}), secret({"a": SEALED}, TEXT), Plan(ENVELOPE, kept=frozenset("a")), id="dropped"
        ),
        pytest.param(
            secret({"a": SEALED}, "x"), secret({"a": SEALED}, TEXT), Plan(ENVELOPE, kept=frozenset("a")), id="damaged"
        ),
        pytest.param(
            secret({"a": SEALED}, OTHER_TEXT),
            secret({"a": SEALED}, TEXT),
            Plan(ENVELOPE, kept=frozenset("a")),
            id="changed",
        ),
        pytest.param(
            secret({"a": b"x", "b": b"y"}, TEXT),
            secret({"a": SEALED}, TEXT),
            Plan(ENVELOPE, compare=frozenset("a"), fresh=frozenset("b")),
            id="re-apply and one more",
        ),
        pytest.param(
            secret({"a": SEALED2}, TEXT), secret({"a": SEALED}, TEXT), Plan(ENVELOPE, verify=frozenset("a")), id="back"
        ),
        pytest.param(
            secret({"a": SEALED, "b": SEALED}, TEXT),
            secret({"a": SEALED}, TEXT),
            Plan(ENVELOPE, kept=frozenset("a"), verify=frozenset("b")),
            id="copied to another key",
        ),
        pytest.param(
            secret({"a": SEALED2, "b": SEALED, "c": b"x"}, OTHER_TEXT),
            secret({"a": SEALED, "b": SEALED, "c": SEALED}, TEXT),
            Plan(OTHER, verify=frozenset("ab"), fresh=frozenset("c")),
            id="restore over another DEK",
        ),
        pytest.param(secret({"a": SEALED}, TEXT), None, Plan(ENVELOPE, verify=frozenset("a")), id="restore"),
        pytest.param(
            secret({"a": SEALED}), secret({"a": SEALED}), Plan(None, kept=frozenset("a")), id="foreign, untouched"
        ),
        pytest.param(
            secret({"a": b"x"}, FOREIGN_TEXT),
            secret({"a": SEALED}, FOREIGN_TEXT),
            Plan(None, fresh=frozenset("a")),
            id="over another Secret's envelope",
        ),
        pytest.param(
            secret({"a": b"x"}, "x"),
            secret({"a": SEALED}, "x"),
            Plan(None, fresh=frozenset("a")),
            id="over a damaged one",
        ),
    ],
)
def test_plans(new: dict[str, Any], old: dict[str, Any] | None, expected: Plan) -> None:
    assert make_plan(write(new, old)) == expected


@pytest.mark.parametrize(
    ("new", "old", "message"),
    [
        (secret({"a": SEALED}), None, r"data\[a\] starts with KSH1"),
        (secret({"a": b"KSH1"}), None, r"data\[a\] starts with KSH1"),
        (secret({"a": SEALED2}), secret({"a": SEALED}), r"data\[a\] starts with KSH1"),
        (secret({"a": SEALED}), secret({"a": b"x"}), r"data\[a\] starts with KSH1"),
        (secret({"a": SEALED}, FOREIGN_TEXT), None, "were sealed for Secret ns/t and open only there"),
        (secret({"a": SEALED}, "{}"), None, "is damaged"),
        (secret({"a": SEALED2}, "{}"), secret({"a": SEALED}, TEXT), "is damaged"),
    ],
)
def test_ciphertext_that_belongs_elsewhere(new: dict[str, Any], old: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(Refused, match=message):
        make_plan(write(new, old))


def test_a_copy_into_another_namespace() -> None:
    with pytest.raises(Refused, match="sealed for Secret ns/s"):
        make_plan(read_write("other", "s", secret({"a": SEALED}, TEXT), None))


values = st.dictionaries(
    st.sampled_from("abcd"), st.sampled_from([b"", b"x", b"y", b"KSH1", SEALED, SEALED2]), max_size=4
)
texts = st.sampled_from([None, "", "x", TEXT, OTHER_TEXT, FOREIGN_TEXT])


@given(values, texts, st.none() | st.tuples(values, texts))
def test_every_value_is_in_one_set_of_the_plan(
    data: dict[str, bytes], text: str | None, old: tuple[dict[str, bytes], str | None] | None
) -> None:
    w = write(secret(data, text), secret(*old) if old else None)
    try:
        plan = make_plan(w)
    except Refused:
        return
    sets = [plan.kept, plan.verify, plan.compare, plan.fresh]
    assert sorted(k for s in sets for k in s) == sorted(data)
    # What is kept is what was there, and nothing sealed is sealed again.
    assert all(w.old_data[k] == data[k] for k in plan.kept)
    assert all(data[k].startswith(b"KSH1") for k in plan.verify)
    assert not any(data[k].startswith(b"KSH1") for k in plan.compare | plan.fresh)
    if plan.base is not None:
        assert (plan.base.namespace, plan.base.name) == ("ns", "s")
    else:
        assert not plan.verify | plan.compare
        assert not plan.kept or w.data == w.old_data


# --- sizes


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        ({"a": MAX_BYTES - 32}, True),
        ({"a": MAX_BYTES - 31}, False),
        ({"a": MAX_BYTES}, False),
        ({"a": MAX_BYTES // 2 - 32, "b": MAX_BYTES // 2 - 32}, True),
        ({"a": MAX_BYTES // 2 - 32, "b": MAX_BYTES // 2 - 31}, False),
        ({"a": MAX_BYTES + 1}, True),  # the API server's own message is the right one
    ],
)
def test_sizes(data: dict[str, int], fits: bool) -> None:
    w = write(secret({k: bytes(n) for k, n in data.items()}))
    if fits:
        check_size(w, make_plan(w))
    else:
        total = sum(data.values())
        by = total + 32 * len(data) - MAX_BYTES
        numbers = (
            rf"each of {len(data)} values: {total} \+ {32 * len(data)} bytes pass the limit of {MAX_BYTES}.* by {by}$"
        )
        with pytest.raises(Refused, match=numbers):
            check_size(w, make_plan(w))


def test_a_value_to_be_compared_may_have_to_be_sealed() -> None:
    w = write(secret({"a": bytes(MAX_BYTES)}), secret({"a": SEALED}, TEXT))
    with pytest.raises(Refused, match="each of 1 values"):
        check_size(w, make_plan(w))


@pytest.mark.parametrize(("keys", "fits"), [(4096, True), (4097, False)])
def test_the_number_of_keys(keys: int, fits: bool) -> None:
    w = write(secret({f"k{n}": b"" for n in range(keys)}))
    if fits:
        check_size(w, make_plan(w))
    else:
        with pytest.raises(Refused, match="4097 keys; 4096 are the most"):
            check_size(w, make_plan(w))


# --- last-applied


def test_last_applied_keeps_keys_without_values() -> None:
    applied = {"kind": "Secret", "data": {"a": "c2VjcmV0"}, "stringData": {"b": "secret"}, "metadata": {"name": "s"}}
    text = blank_last_applied(json.dumps(applied))
    assert text is not None
    assert json.loads(text) == applied | {"data": {"a": ""}, "stringData": {"b": ""}}
    assert text.endswith("}\n")
    assert blank_last_applied(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "5", '"secret"', '{"data": "secret"}', '{"data": ["secret"]}', '{"stringData": 5}', "{"],
)
def test_a_last_applied_that_cannot_be_read_is_removed(text: str) -> None:
    assert blank_last_applied(text) is None
    w = write(secret({"a": b"x"}, metadata={"annotations": {ANNOTATION_LAST_APPLIED: text, "else": "y"}}))
    operations = patch(w, {"a": SEALED}, ENVELOPE, TEXT, "rk")
    assert applied_to(w, operations)["metadata"]["annotations"] == {"else": "y", ANNOTATION_ENVELOPE: TEXT}


@given(st.dictionaries(st.text(), st.text(min_size=1) | st.none() | st.integers()))
def test_no_value_is_left_in_last_applied(data: dict[str, Any]) -> None:
    text = blank_last_applied(json.dumps({"data": data, "stringData": data}))
    if text is not None:  # None: an integer too long for JSON readers
        left = json.loads(text)
        assert left["data"] == left["stringData"] == dict.fromkeys(data, "")


# --- the patch


def applied_to(w: Write, operations: list[dict[str, Any]]) -> dict[str, Any]:
    """RFC 6902 for what we use of it: `add` of whole members."""
    result: dict[str, Any] = json.loads(json.dumps(w.secret))
    for operation in operations:
        assert operation["op"] == "add"
        *parents, last = operation["path"].split("/")[1:]
        target = result
        for part in parents:
            target = target[part]
        target[last] = operation["value"]
    return result


def test_a_patch_of_a_sealed_secret() -> None:
    w = write(secret({"a": b"x"}, metadata={"labels": {"app": "x"}}))
    stored = applied_to(w, patch(w, {"a": SEALED}, ENVELOPE, TEXT, "rk"))
    assert decode_data(stored) == {"a": SEALED}
    assert stored["metadata"]["annotations"] == {ANNOTATION_ENVELOPE: TEXT}
    assert stored["metadata"]["labels"] == {
        "app": "x",
        LABEL_ROOT_KEY: "rk",
        LABEL_KEY_ID: str(KEY_A),
        LABEL_KEY_VERSION: "1",
    }
    again = write(stored, stored)
    assert patch(again, {"a": SEALED}, ENVELOPE, TEXT, "rk") == []


def test_caches_are_rewritten_from_the_envelope() -> None:
    labels = {LABEL_KEY_ID: str(KEY_B), LABEL_KEY_VERSION: "9"}
    w = write(secret({"a": SEALED}, TEXT, metadata={"labels": labels}))
    stored = applied_to(w, patch(w, {"a": SEALED}, ENVELOPE, TEXT, None))
    assert stored["metadata"]["labels"] == {LABEL_KEY_ID: str(KEY_A), LABEL_KEY_VERSION: "1"}


def test_without_values_nothing_of_an_envelope_stays() -> None:
    meta = {"labels": {LABEL_KEY_ID: "x", LABEL_KEY_VERSION: "1", LABEL_ROOT_KEY: "rk"}}
    w = write(secret({}, TEXT) | {"metadata": secret({}, TEXT)["metadata"] | meta})
    stored = applied_to(w, patch(w, {}, None, "", None))
    assert stored["metadata"]["annotations"] == {}
    assert stored["metadata"]["labels"] == {LABEL_ROOT_KEY: "rk"}
