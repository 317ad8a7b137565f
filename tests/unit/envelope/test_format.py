"""The envelope's text: one envelope, one text; everything else is refused, and by name."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyshred.envelope.context import PREFIX
from keyshred.envelope.format import (
    MAX_TEXT,
    OVERHEAD,
    Envelope,
    Mechanism,
    looks_sealed,
    parse,
    serialise,
    split_sealed,
)
from keyshred.errors import MalformedEnvelope, MalformedValue

from . import strategies


@given(strategies.envelopes())
def test_parse_gives_back_what_was_serialised(envelope: Envelope) -> None:
    text = serialise(envelope)
    assert parse(text) == envelope
    assert text.isascii()
    assert len(text) <= MAX_TEXT
    assert list(json.loads(text)) == sorted(json.loads(text))


def must_be_canonical_or_malformed(text: str) -> None:
    try:
        envelope = parse(text)
    except MalformedEnvelope as error:
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
    else:
        assert serialise(envelope) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text() | json_values.map(json.dumps))
def test_any_text_is_canonical_or_malformed(text: str) -> None:
    must_be_canonical_or_malformed(text)


@given(strategies.envelopes(), st.data())
def test_any_splice_of_an_envelope_is_canonical_or_malformed(envelope: Envelope, data: st.DataObject) -> None:
    text = serialise(envelope)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 8, len(text))))
    spliced = text[:start] + data.draw(st.text(max_size=8)) + text[end:]
    assume(spliced != text)
    must_be_canonical_or_malformed(spliced)


@given(strategies.envelopes(), json_values, st.data())
def test_any_value_of_a_member_is_canonical_or_malformed(envelope: Envelope, value: Any, data: st.DataObject) -> None:
    members = json.loads(serialise(envelope))
    members[data.draw(st.sampled_from(sorted(members)))] = value
    must_be_canonical_or_malformed(json.dumps(members, separators=(",", ":"), sort_keys=True))


@given(strategies.envelopes())
def test_no_message_repeats_a_value(envelope: Envelope) -> None:
    text = serialise(envelope)
    members = json.loads(text)
    broken = [text + " ", text.replace('"v":1', '"hunter2":1,"v":1'), text.replace('"v":1', '"v":2')]
    for field, value in members.items():
        broken += [
            json.dumps(members | {field: changed}, separators=(",", ":"))
            for changed in (f"{value}=hunter2", f"{value} ", f"urn:uuid:{value}", 0)
        ]
    for text in broken:
        with pytest.raises(MalformedEnvelope) as caught:
            parse(text)
        shown = str(caught.value)
        assert "hunter2" not in shown
        assert not any(str(members[field]) in shown for field in ("keyID", "wrappedDEK", "commit", "bornAt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"v":1,"v":1}', "envelope: a member is given twice"),
        ('{"v":2,"w":1}', "envelope: v is a format version that is not known here"),
        ("[]", "envelope: not a JSON object"),
        ("[" * 1024, "envelope: not JSON"),
        (" " * 1025, "envelope: longer than 1024 bytes"),
    ],
)
def test_the_message_names_the_cause(text: str, message: str) -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        parse(text)
    assert str(caught.value) == message


def test_an_unknown_member_is_called_that() -> None:
    with pytest.raises(MalformedEnvelope, match="a member that the format does not have"):
        parse(serialise(USUAL).replace('"v":1', '"v":1,"w":1'))


USUAL = parse(
    '{"born":"sealed","bornAt":"2026-11-24T09:30:00Z","commit":"AAAAAAAAAAAAAAAAAAAAAA==",'
    '"keyID":"0f8fad5b-d9cb-469f-a165-70867728950e","keyVersion":1,"mechanism":"AES_KWP",'
    f'"name":"database","namespace":"shop","v":1,"wrappedDEK":"{"AAAA" * 13}AA=="'
    "}"
)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("keyVersion", {"key_version": 0}),
        ("keyVersion", {"key_version": 2**32}),
        ("wrappedDEK", {"wrapped_dek": bytes(39)}),
        ("wrappedDEK", {"wrapped_dek": bytes(60)}),
        ("wrappedDEK", {"mechanism": Mechanism.AES_GCM}),
        ("commit", {"commit": bytes(15)}),
        ("commit", {"commit": bytes(32)}),
        ("namespace", {"namespace": "Shop"}),
        ("name", {"name": ""}),
        ("bornAt", {"born_at": datetime(2026, 11, 24)}),
        ("bornAt", {"born_at": datetime(2026, 11, 24, microsecond=1, tzinfo=UTC)}),
        ("bornAt", {"born_at": datetime(2026, 11, 24, tzinfo=timezone(timedelta(hours=1)))}),
        ("bornAt", {"born_at": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)}),
    ],
)
def test_no_envelope_with_a_field_out_of_range(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(MalformedEnvelope, match=field):
        dataclasses.replace(USUAL, **change)


def test_zero_offset_by_another_name_is_the_same_text() -> None:
    zero = timezone(timedelta(0), "GMT")
    assert serialise(dataclasses.replace(USUAL, born_at=USUAL.born_at.replace(tzinfo=zero))) == serialise(USUAL)


@given(st.binary(max_size=64), st.booleans())
def test_a_sealed_value_splits_by_its_shape_alone(rest: bytes, prefixed: bool) -> None:
    value = PREFIX + rest if prefixed else rest
    assert looks_sealed(value) == (value[:4] == b"KSH1")
    if value[:4] == b"KSH1" and len(value) >= OVERHEAD == 32:
        nonce, ciphertext = split_sealed(value)
        assert (PREFIX + nonce + ciphertext, len(nonce)) == (value, 12)
    else:
        with pytest.raises(MalformedValue):
            split_sealed(value)
