"""Nothing that was changed opens: every position of every part, with every other value of its byte."""

import dataclasses
import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyshred.envelope.format import Envelope, Mechanism, parse, serialise
from keyshred.envelope.seal import derive
from keyshred.errors import Deny

from . import strategies
from .reader import RootKeys, value_keys, wrap
from .test_seal import CONTEXT, DEK, envelope_of

PLAINTEXT = b"correct horse"
SEALED = derive(DEK, CONTEXT).seal("password", PLAINTEXT)


def distinct(key_id: uuid.UUID, version: int) -> bytes:
    """Every key ID and version has a root key of its own."""
    return hashlib.sha256(key_id.bytes + version.to_bytes(4, "big")).digest()


def equal(key_id: uuid.UUID, version: int) -> bytes:
    """Every key ID and version has the same root key, so that it is never the wrong key that refuses."""
    return bytes(32)


ROOTS = pytest.mark.parametrize("root_keys", [distinct, equal])
MECHANISMS = pytest.mark.parametrize("mechanism", Mechanism)
mechanisms, roots = st.sampled_from(Mechanism), st.sampled_from([distinct, equal])


def envelope(root_keys: RootKeys, mechanism: Mechanism) -> Envelope:
    wrapped = wrap(root_keys, mechanism, CONTEXT.key_id, 1, DEK)
    return dataclasses.replace(envelope_of(DEK, CONTEXT, mechanism), wrapped_dek=wrapped)


def opens(
    root_keys: RootKeys,
    text: str,
    namespace: str = "shop",
    name: str = "database",
    data_key: str = "password",
    sealed: bytes = SEALED,
) -> bool:
    """True where the value opens, to whatever; False where it is refused on purpose. Other exceptions pass."""
    try:
        value_keys(root_keys, namespace, name, text).open(data_key, sealed)
    except Deny:
        return False
    return True


def every_byte_changed(raw: bytes) -> list[bytes]:
    return [raw[:i] + bytes([value]) + raw[i + 1 :] for i in range(len(raw)) for value in range(256) if value != raw[i]]


@ROOTS
@MECHANISMS
def test_unchanged_opens(root_keys: RootKeys, mechanism: Mechanism) -> None:
    text = serialise(envelope(root_keys, mechanism))
    assert value_keys(root_keys, "shop", "database", text).open("password", SEALED) == PLAINTEXT


def test_sealed_value_changed() -> None:
    text = serialise(envelope(equal, Mechanism.AES_GCM))
    assert [value for value in every_byte_changed(SEALED) if opens(equal, text, sealed=value)] == []


@pytest.mark.parametrize(("field", "place"), [("namespace", "shop"), ("name", "database"), ("data_key", "password")])
def test_place_changed(field: str, place: str) -> None:
    text = serialise(envelope(equal, Mechanism.AES_KWP))
    changed: list[dict[str, Any]] = [{field: raw.decode("latin-1")} for raw in every_byte_changed(place.encode())]
    assert [other for other in changed if opens(equal, text, **other)] == []


@ROOTS
@MECHANISMS
@pytest.mark.parametrize("field", ["namespace", "name"])
def test_place_changed_in_the_secret_and_in_its_envelope(root_keys: RootKeys, mechanism: Mechanism, field: str) -> None:
    good = envelope(root_keys, mechanism)
    text, place = serialise(good), getattr(good, field)
    for raw in every_byte_changed(place.encode()):
        other: dict[str, Any] = {field: raw.decode("latin-1")}
        edited = text.replace(f'"{field}":"{place}"', f'"{field}":"{other[field]}"')
        assert edited != text
        assert not opens(root_keys, edited, **other)


@ROOTS
@MECHANISMS
@pytest.mark.parametrize("field", ["key_id", "commit", "wrapped_dek"])
def test_envelope_field_changed(root_keys: RootKeys, mechanism: Mechanism, field: str) -> None:
    good = envelope(root_keys, mechanism)
    build: Callable[[bytes], Any] = (lambda raw: uuid.UUID(bytes=raw)) if field == "key_id" else bytes
    raw = good.key_id.bytes if field == "key_id" else getattr(good, field)
    edited = [dataclasses.replace(good, **{field: build(other)}) for other in every_byte_changed(raw)]
    assert [other for other in edited if opens(root_keys, serialise(other))] == []


@pytest.mark.parametrize(
    ("root_keys", "mechanism"),
    [(distinct, Mechanism.AES_GCM), (equal, Mechanism.AES_GCM), (distinct, Mechanism.AES_KWP)],
)
def test_every_character_of_the_annotation_changed(root_keys: RootKeys, mechanism: Mechanism) -> None:
    good = envelope(root_keys, mechanism)
    text = serialise(good)
    opened = set()
    for position, old in enumerate(text):
        for new in map(chr, range(128)):
            edited = text[:position] + new + text[position + 1 :]
            if new != old and opens(root_keys, edited):
                assert dataclasses.replace(parse(edited), born_at=good.born_at) == good
                opened.add(position)
    # What the DEK does not authenticate, and no more: the digits of bornAt.
    start = text.index('"bornAt":"') + len('"bornAt":"')
    assert opened
    assert opened <= set(range(start, start + len("2026-11-24T00:00:00")))


@given(st.binary(), roots, mechanisms)
def test_any_other_value(value: bytes, root_keys: RootKeys, mechanism: Mechanism) -> None:
    assume(value != SEALED)
    text = serialise(envelope(root_keys, mechanism))
    assert not opens(root_keys, text, sealed=value)
    assert not opens(root_keys, text, sealed=SEALED + value[:8] if value else b"")
    assert not opens(root_keys, text, sealed=SEALED[: -len(value[:60]) or len(SEALED) - 1])


@given(strategies.labels, strategies.names, strategies.data_keys, roots, mechanisms)
def test_any_other_place(namespace: str, name: str, data_key: str, root_keys: RootKeys, mechanism: Mechanism) -> None:
    assume((namespace, name, data_key) != ("shop", "database", "password"))
    good = envelope(root_keys, mechanism)
    assert not opens(root_keys, serialise(good), namespace, name, data_key)
    moved = dataclasses.replace(good, namespace=namespace, name=name)
    assert not opens(root_keys, serialise(moved), namespace, name, data_key)


@given(strategies.envelopes(), st.data())
def test_any_mix_with_another_envelope(other: Envelope, data: st.DataObject) -> None:
    good = envelope(distinct, data.draw(mechanisms))
    fields = [field.name for field in dataclasses.fields(Envelope) if field.name not in {"born", "born_at"}]
    taken = data.draw(st.lists(st.sampled_from(fields), min_size=1, unique=True))
    try:
        mixed = dataclasses.replace(good, **{field: getattr(other, field) for field in taken})
    except Deny:
        return
    assume(any(getattr(mixed, field) != getattr(good, field) for field in fields))
    assert not opens(distinct, serialise(mixed), mixed.namespace, mixed.name)
