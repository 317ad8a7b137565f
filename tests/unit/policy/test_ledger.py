"""The ledger: what is appended is bound to what was there, and which delete counts as admitted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyshred.errors import LedgerBroken, Refused
from keyshred.policy.ledger import (
    MAX_ENTRIES,
    Action,
    admitted_delete,
    append,
    check_chain,
    cut,
    digest,
    repeats_delete,
)
from keyshred.times import stamp

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def ledger(*actions: Action) -> dict[str, Any]:
    status: dict[str, Any] = {}
    for n, action in enumerate(actions):
        status = {"transitions": append(status, action=action, by="tester", now=NOW + timedelta(seconds=n))}
    return status


def test_first_entry() -> None:
    assert append({}, action=Action.CREATED, by="key-admin", now=NOW, root_key_uid="u", detail="d") == [
        {
            "seq": 1,
            "time": "2026-03-01T12:00:00.250000Z",
            "action": "Created",
            "by": "key-admin",
            "rootKeyUID": "u",
            "detail": "d",
            "prevHash": "",
            "signature": "",
        }
    ]


def test_the_hash_is_the_documented_one() -> None:
    # By hand: printf '%s' '{"a":"ü","b":1}' | sha256sum
    assert digest({"b": 1, "a": "ü"}) == "4e7ff4080b1a00acdaf71eb0cdf2d504aa8068bbb375c002eac2df3f064047a7"


def test_each_entry_names_the_one_before() -> None:
    first, second, third = ledger(Action.CREATED, Action.GENERATE_STARTED, Action.ACTIVATED)["transitions"]
    assert [first["seq"], second["seq"], third["seq"]] == [1, 2, 3]
    assert second["prevHash"] == digest(first)
    assert third["prevHash"] == digest(second)


@pytest.mark.parametrize("field", ["time", "action", "by", "rootKeyUID", "detail", "signature"])
def test_a_changed_entry_breaks_the_chain(field: str) -> None:
    status = ledger(Action.CREATED, Action.GENERATE_STARTED, Action.ACTIVATED)
    status["transitions"][1][field] += "x"
    with pytest.raises(LedgerBroken, match="transition 3"):
        append(status, action=Action.SUSPENDED, by="tester", now=NOW)


@pytest.mark.parametrize(("index", "named"), [(0, 1), (1, 2)])
def test_an_entry_taken_out_breaks_the_chain(index: int, named: int) -> None:
    status = ledger(Action.CREATED, Action.GENERATE_STARTED, Action.ACTIVATED)
    del status["transitions"][index]
    with pytest.raises(LedgerBroken, match=f"transition {named}"):
        check_chain(status["transitions"])


def test_a_number_left_out_at_the_end_breaks_the_chain() -> None:
    status = ledger(Action.CREATED, Action.GENERATE_STARTED)
    status["transitions"][1]["seq"] = 3
    with pytest.raises(LedgerBroken, match="transition 2"):
        check_chain(status["transitions"])


def test_what_was_given_is_not_changed() -> None:
    status = ledger(Action.CREATED)
    append(status, action=Action.ADOPTED, by="tester", now=NOW)
    assert len(status["transitions"]) == 1


def test_long_texts_are_cut_to_what_the_schema_takes() -> None:
    entry = append({}, action=Action.CREATED, by="b" * 600, now=NOW, detail="d" * 600)[0]
    assert (len(entry["by"]), len(entry["detail"])) == (512, 512)


def test_a_full_ledger_still_takes_the_end_of_the_key() -> None:
    status: dict[str, Any] = {}
    for _ in range(MAX_ENTRIES - 100):
        # Chained by hand: append checks the whole chain each time.
        entries = status.setdefault("transitions", [])
        last = entries[-1] if entries else None
        entries.append({"seq": len(entries) + 1, "action": "Suspended", "prevHash": digest(last) if last else ""})
    with pytest.raises(Refused, match="takes no more Suspended"):
        append(status, action=Action.SUSPENDED, by="tester", now=NOW)
    for _ in range(80):
        status["transitions"] = append(status, action=Action.DELETE_ADMITTED, by="tester", now=NOW)
    with pytest.raises(Refused, match="takes no more DeleteAdmitted"):
        append(status, action=Action.DELETE_ADMITTED, by="tester", now=NOW)
    assert len(append(status, action=Action.DESTROYED, by="tester", now=NOW)) == MAX_ENTRIES - 19


DELETED = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def admitted(time: datetime, uid: str = "uid") -> dict[str, Any]:
    return {"deleteAdmitted": {"rootKeyUID": uid, "time": stamp(time), "by": "key-admin"}}


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [
        (0, True),
        (-40, True),
        (-40.001, False),
        # The timestamp is cut to whole seconds: this delete came before the deletion it led to.
        (0.9, True),
        # The webhook's clock is ahead.
        (6, True),
        (6.001, False),
    ],
)
def test_only_a_delete_admitted_just_before_counts(seconds: float, counts: bool) -> None:
    found = admitted_delete(admitted(DELETED + timedelta(seconds=seconds)), "uid", DELETED)
    assert (found is not None and found["by"] == "key-admin") is counts


def test_a_delete_of_another_object_does_not_count() -> None:
    assert admitted_delete(admitted(DELETED, "other"), "uid", DELETED) is None


def test_an_entry_in_the_ledger_alone_admits_nothing() -> None:
    assert admitted_delete(ledger(Action.DELETE_ADMITTED), "uid", DELETED) is None


@pytest.mark.parametrize(
    ("actions", "uid", "repeats"),
    [
        ([], "uid", False),
        ([Action.CREATED, Action.DELETE_ADMITTED], "uid", True),
        ([Action.CREATED, Action.DELETE_ADMITTED], "other", False),
        # Something else happened since: the next attempt is news again.
        ([Action.DELETE_ADMITTED, Action.SUSPENDED], "uid", False),
    ],
)
def test_attempts_that_follow_each_other_are_one_entry(actions: list[Action], uid: str, repeats: bool) -> None:
    status: dict[str, Any] = {}
    for action in actions:
        status = {"transitions": append(status, action=action, by="tester", now=NOW, root_key_uid="uid")}
    assert repeats_delete(status, uid) is repeats


def test_texts_are_cut_by_bytes_and_between_characters() -> None:
    assert cut("€" * 600) == "€" * 170
    assert cut("short") == "short"
