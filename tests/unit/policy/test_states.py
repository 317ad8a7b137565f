"""The state × action table of the contract, and the state that counts now."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.names import KeyState
from keyshred.policy.states import FINAL, Action, allows, effective

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE, AFTER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)

P, A, S, D, G, X = KeyState  # in the order of the contract's columns


@pytest.mark.parametrize(
    ("action", "row"),
    [
        #                  P A S D G X
        (Action.SEAL, (0, 1, 0, 0, 0, 0)),
        (Action.UNSEAL, (0, 1, 0, 1, 0, 0)),
        (Action.ROTATE, (0, 1, 0, 0, 0, 0)),
        (Action.DELETE, (1, 1, 1, 1, 0, 0)),
    ],
)
def test_the_table(action: Action, row: tuple[int, ...]) -> None:
    assert [allows(state, action) for state in KeyState] == [bool(cell) for cell in row]


@pytest.mark.parametrize(
    ("recorded", "spec", "expected"),
    [
        (A, {}, A),
        (P, {}, P),  # there is no key yet, whatever the spec says
        (P, {"activation": BEFORE}, P),
        (P, {"deleting": True}, G),
        (A, {"deleting": True}, G),
        (A, {"deleting": True, "suspended": True}, G),
        (A, {"suspended": True}, S),
        (A, {"suspended": True, "expiration": BEFORE}, S),
        (A, {"expiration": AFTER}, A),
        (A, {"expiration": NOW}, D),
        (A, {"expiration": BEFORE}, D),
        (A, {"activation": AFTER}, P),
        (A, {"activation": NOW}, A),
        (S, {}, A),
        (D, {"expiration": AFTER}, A),
        (G, {}, G),
        (X, {}, X),
        (X, {"deleting": True}, X),
    ],
)
def test_effective(recorded: KeyState, spec: dict[str, Any], expected: KeyState) -> None:
    given = {"deleting": False, "suspended": False, "activation": None, "expiration": None}
    assert effective(recorded, **(given | spec), now=NOW) is expected


times = st.none() | st.sampled_from([BEFORE, NOW, AFTER])


@given(st.sampled_from(KeyState), st.booleans(), st.booleans(), times, times)
def test_what_ends_a_key_wins(
    recorded: KeyState, deleting: bool, suspended: bool, activation: datetime | None, expiration: datetime | None
) -> None:
    state = effective(
        recorded, deleting=deleting, suspended=suspended, activation=activation, expiration=expiration, now=NOW
    )
    if recorded in FINAL:
        assert state is recorded
    if deleting or suspended:
        assert not allows(state, Action.UNSEAL)
    if recorded is P:
        assert not allows(state, Action.UNSEAL)
