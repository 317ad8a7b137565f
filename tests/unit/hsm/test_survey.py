"""The survey of a token that holds more than it should."""

from typing import cast
from uuid import uuid4

from keyshred.hsm.interface import KeyRef
from keyshred.hsm.pkcs11_token import Session
from keyshred.hsm.survey import survey
from tests.unit.hsm.fake_token import Note, Thing, Token

KEY, OTHER = KeyRef(uuid4(), 3), KeyRef(uuid4(), 1)


def _look(token: Token, *, data: bool = True) -> tuple[object, object, object]:
    seen = survey(cast(Session, token), data=data)
    return seen.keys, seen.claims, seen.heads


def test_what_is_not_as_it_should_be_is_left_out_and_spoils_nothing_else() -> None:
    token = Token()
    key, other = str(KEY.key_id), str(OTHER.key_id)
    token.things = [
        Thing(token, key, KEY.cka_id),
        Thing(token, other, OTHER.cka_id),
        Thing(token, other, OTHER.cka_id),
        Thing(token, "somebody's", b"id"),
        Thing(token, key.upper(), KEY.cka_id),
    ]
    token.notes = [
        Note(token, f"keyshred-claim:{key}:cluster", b""),
        Note(token, f"keyshred-head:{key}", bytes(8) + b"one"),
        Note(token, f"keyshred-head:{other}", b"short"),
        Note(token, "keyshred-head:nobody", bytes(8)),
        Note(token, f"somebody:{key}:cluster", b""),
        Note(token, "plain", b""),
    ]
    assert _look(token) == ({KEY.key_id: (KEY,)}, {KEY.key_id: {"cluster"}}, {KEY.key_id: b"one"})


def test_of_two_heads_the_higher_number_counts_and_two_of_one_number_are_none() -> None:
    token = Token()
    label = f"keyshred-head:{KEY.key_id}"
    numbers = [(1).to_bytes(8, "big"), (2).to_bytes(8, "big")]
    token.notes = [Note(token, label, numbers[1] + b"new"), Note(token, label, numbers[0] + b"old")]
    assert _look(token) == ({}, {}, {KEY.key_id: b"new"})
    token.notes.append(Note(token, label, numbers[1] + b"newer"))
    assert _look(token) == ({}, {}, {})


def test_a_token_that_keeps_no_data_objects_is_asked_for_none() -> None:
    token = Token(notes=[])
    token.notes = [Note(token, f"keyshred-claim:{KEY.key_id}:cluster", b"")]
    assert _look(token, data=False) == ({}, {}, {})
