"""Context and AADs: one context, one encoding."""

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.envelope.context import Context, value_aad, wrap_aad
from keyshred.errors import Malformed

from . import strategies

Parts = tuple[Context, str]
parts = st.tuples(strategies.contexts, strategies.data_keys)
# A few letters only, so that moved boundaries are found.
close_names = st.from_regex(r"[ab]{1,3}", fullmatch=True)
close_parts = st.tuples(st.builds(Context, st.just(uuid.UUID(int=0)), close_names, close_names), close_names)


def decode(aad: bytes) -> tuple[uuid.UUID, str, str, str]:
    """Reads a value's AAD back; fails where bytes are left over."""
    assert aad[:4] == b"KSH1"
    texts, rest = [], aad[20:]
    for _ in range(3):
        size = int.from_bytes(rest[:2], "big")
        texts.append(rest[2 : 2 + size].decode())
        rest = rest[2 + size :]
    assert rest == b""
    return uuid.UUID(bytes=aad[4:20]), texts[0], texts[1], texts[2]


@given(parts)
def test_value_aad_reads_back(given_parts: Parts) -> None:
    context, data_key = given_parts
    assert decode(value_aad(context.encode(), data_key)) == (*dataclasses.astuple(context), data_key)


@given(close_parts, close_parts)
def test_different_places_never_share_an_aad(one: Parts, other: Parts) -> None:
    assert (one == other) == (value_aad(one[0].encode(), one[1]) == value_aad(other[0].encode(), other[1]))


@given(st.uuids(), strategies.versions)
def test_wrap_aad_is_prefix_key_id_and_version(key_id: uuid.UUID, version: int) -> None:
    aad = wrap_aad(key_id, version)
    assert (aad[:5], aad[5:21], int.from_bytes(aad[21:], "big"), len(aad)) == (b"KSHW1", key_id.bytes, version, 25)


@given(st.text())
def test_any_text_is_a_name_or_malformed(text: str) -> None:
    builders: dict[str, Callable[[], bytes]] = {
        "namespace": lambda: Context(uuid.UUID(int=0), text, "a").encode(),
        "name": lambda: Context(uuid.UUID(int=0), "a", text).encode(),
        "data key": lambda: value_aad(b"", text),
    }
    for field, build in builders.items():
        try:
            assert text.encode() in build()
        except Malformed as error:
            assert str(error) == f"{field} is not a valid Kubernetes name"


@pytest.mark.parametrize("change", [{"namespace": ""}, {"name": ""}, {"name": "a" * 254}, {"namespace": "a" * 64}])
def test_no_context_without_valid_names(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        dataclasses.replace(Context(uuid.UUID(int=0), "a", "b"), **change)
