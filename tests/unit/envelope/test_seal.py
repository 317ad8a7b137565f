"""Sealing and opening: round trips, fresh nonces, the commit, and nothing shown."""

import dataclasses
import hmac
import inspect
import pickle
import traceback
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.envelope.context import Context
from keyshred.envelope.format import OVERHEAD, Born, Envelope, Mechanism, looks_sealed, serialise
from keyshred.envelope.seal import ValueKeys, derive, new_dek, unlock
from keyshred.errors import CannotOpen

from . import strategies
from .reader import value_keys, wrap

CONTEXT = Context(uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e"), "shop", "database")
DEK = bytes(range(32))


def envelope_of(dek: bytes, context: Context, mechanism: Mechanism = Mechanism.AES_KWP, version: int = 1) -> Envelope:
    return Envelope(
        key_id=context.key_id,
        key_version=version,
        mechanism=mechanism,
        wrapped_dek=wrap(lambda *_: bytes(32), mechanism, context.key_id, version, dek),
        commit=derive(dek, context).commit,
        namespace=context.namespace,
        name=context.name,
        born=Born.SEALED,
        born_at=datetime(2026, 11, 24, tzinfo=UTC),
    )


@given(
    strategies.deks,
    strategies.contexts,
    st.dictionaries(strategies.data_keys, st.binary(max_size=200), max_size=3),
    st.sampled_from(Mechanism),
    strategies.versions,
)
def test_what_is_sealed_opens_again(
    dek: bytes, context: Context, data: dict[str, bytes], mechanism: Mechanism, version: int
) -> None:
    sealing = derive(dek, context)
    stored = {key: sealing.seal(key, value) for key, value in data.items()}
    text = serialise(envelope_of(dek, context, mechanism, version))

    opening = value_keys(lambda *_: bytes(32), context.namespace, context.name, text)

    assert {key: opening.open(key, value) for key, value in stored.items()} == data
    assert all(looks_sealed(value) for value in stored.values())
    assert all(len(stored[key]) == len(data[key]) + OVERHEAD for key in data)


def test_every_seal_draws_its_own_nonce() -> None:
    keys = derive(DEK, CONTEXT)
    assert len({keys.seal("password", b"same")[4:16] for _ in range(500)}) == 500
    assert list(inspect.signature(ValueKeys.seal).parameters) == ["self", "data_key", "plaintext"]


def test_deks_are_32_bytes_and_differ() -> None:
    deks = {new_dek() for _ in range(100)}
    assert len(deks) == 100
    assert {len(dek) for dek in deks} == {32}


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_dek_of_another_length_opens_nothing(size: int) -> None:
    with pytest.raises(CannotOpen):
        derive(bytes(size), CONTEXT)


def test_unlock_refuses_a_dek_with_another_commit() -> None:
    with pytest.raises(CannotOpen):
        unlock(bytes(32), envelope_of(DEK, CONTEXT))


def test_the_commit_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with pytest.raises(CannotOpen):
        unlock(DEK, envelope_of(DEK, CONTEXT))
    assert compared == [{derive(DEK, CONTEXT).commit}]


def test_value_keys_show_nothing() -> None:
    keys = derive(DEK, CONTEXT)
    secret = {DEK.hex(), repr(DEK), repr(DEK)[2:-1], keys.commit.hex()}
    assert not any(text in shown for text in secret for shown in (repr(keys), str(keys), f"{keys}"))
    assert not hasattr(keys, "__dict__")
    assert keys != derive(DEK, CONTEXT), "equality would compare keys, and not in constant time"
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def test_every_failure_to_open_is_the_same_blank_answer() -> None:
    keys = derive(DEK, CONTEXT)
    sealed = keys.seal("password", b"hunter2")
    other_context = derive(DEK, dataclasses.replace(CONTEXT, name="other"))
    errors = []
    for opening, data_key, value in (
        (keys, "user", sealed),
        (keys, "password", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (derive(bytes(32), CONTEXT), "password", sealed),
        (other_context, "password", sealed),
    ):
        with pytest.raises(CannotOpen) as caught:
            opening.open(data_key, value)
        errors.append(caught.value)
    with pytest.raises(CannotOpen) as caught:
        unlock(bytes(32), envelope_of(DEK, CONTEXT))
    errors.append(caught.value)

    assert {error.args for error in errors} == {("cannot open",)}
    assert all(error.__cause__ is None for error in errors)
    assert not any("InvalidTag" in "".join(traceback.format_exception(error)) for error in errors)
