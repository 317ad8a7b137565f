"""The ledger's head: it may be behind the KeyRecord, and never ahead."""

from datetime import UTC, datetime
from typing import Any

import pytest

from keyshred.errors import LedgerBehindToken
from keyshred.names import KeyState
from keyshred.policy.heads import Head
from keyshred.policy.ledger import Action, append

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(*actions: Action, state: str = "Active", by: str = "tester") -> dict[str, Any]:
    status: dict[str, Any] = {"state": state}
    for action in actions:
        status["transitions"] = append(status, action=action, by=by, now=NOW)
    return status


YOUNG = record(Action.CREATED, Action.GENERATE_STARTED)
OLD = record(Action.CREATED, Action.GENERATE_STARTED, Action.GENERATED)


def test_it_goes_there_and_back_and_fits() -> None:
    head = Head.of(OLD, "c" * 36)
    assert Head.parse(head.encode()) == head
    assert len(head.encode()) <= 512
    assert head.encode().startswith(b'{"cluster":"ccc')


def test_a_record_that_went_on_is_fine() -> None:
    Head.of(YOUNG, "c").check("k", OLD)
    Head.of(OLD, "c").check("k", OLD)


@pytest.mark.parametrize(
    ("head", "status", "says"),
    [
        (Head.of(OLD, "c"), YOUNG, "ends at 2"),
        # As long, and another story.
        (Head.of(OLD, "c"), record(*(Action.CREATED,) * 3), "holds another entry"),
        (Head.of(YOUNG, "c"), record(*(Action.CREATED,) * 3, by="other"), "holds another entry"),
    ],
)
def test_a_record_that_does_not_hold_it_stops_everything(head: Head, status: dict[str, Any], says: str) -> None:
    with pytest.raises(LedgerBehindToken, match=says) as raised:
        head.check("k", status)
    assert "keyshred-head:k" in str(raised.value)


@pytest.mark.parametrize("state", list(KeyState))
def test_an_end_that_was_decided_is_told(state: KeyState) -> None:
    head = Head.of(record(Action.CREATED, Action.KEPT, state=state), "c")
    with pytest.raises(LedgerBehindToken) as raised:
        head.check("k", record(Action.CREATED))
    assert raised.value.decided is (state in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED))


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"cluster":"c","hash":"h","seq":1,"state":"x"}'])
def test_one_that_cannot_be_read_stops_everything(text: bytes) -> None:
    with pytest.raises(LedgerBehindToken, match="cannot be read"):
        Head.parse(text)
