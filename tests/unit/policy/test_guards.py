"""Guards of a destruction: what is weakened counts late, what is strengthened at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.errors import KeyProtected, PolicyNotFresh, Refused
from keyshred.policy import guards
from keyshred.policy.durations import parse

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def wanted(grace: str = "0s", protected: bool = False) -> dict[str, Any]:
    return {"gracePeriod": grace, "protected": protected}


def test_what_a_spec_asks_for() -> None:
    assert guards.asked({}) == wanted()
    assert guards.asked({"destruction": {"gracePeriod": "72h", "protected": True}}) == wanted("72h", True)


def test_a_key_without_guards_has_nothing_to_record() -> None:
    assert not guards.changed(None, guards.observe(None, wanted(), None, NOW))
    assert guards.changed(None, guards.observe(None, wanted("1h"), None, NOW))


def test_a_lowered_grace_period_counts_when_the_old_one_has_passed() -> None:
    noted = guards.observe(wanted("72h"), wanted("1h"), 0, NOW)
    assert noted["stricterGracePeriod"] == "72h"
    at_end = NOW + timedelta(hours=72)
    assert guards.grace_period(noted, at_end - timedelta(microseconds=1)) == timedelta(hours=72)
    assert guards.grace_period(noted, at_end) == timedelta(hours=1)
    # Looking again changes nothing until then.
    assert guards.observe(noted, wanted("1h"), 0, at_end - timedelta(seconds=1)) == noted
    assert guards.observe(noted, wanted("1h"), 0, at_end) == wanted("1h")


def test_raising_counts_at_once() -> None:
    noted = guards.observe(wanted("1h"), wanted("72h"), 0, NOW)
    assert guards.grace_period(noted, NOW) == timedelta(hours=72)
    lowered = guards.observe(wanted("72h"), wanted("0s"), 0, NOW)
    assert guards.observe(lowered, wanted("100h"), 0, NOW) == wanted("100h")


@given(
    st.lists(st.tuples(st.sampled_from(["0s", "5h", "24h", "72h"]), st.integers(0, 80)), min_size=1, max_size=8),
    st.integers(0, 100),
)
def test_no_way_of_lowering_beats_a_period_that_counted(changes: list[tuple[str, int]], wait: int) -> None:
    """Each period counts for its own length after it was given up, however it was."""
    noted, now = None, NOW
    given_up: list[tuple[timedelta, datetime]] = []
    for grace, hours in changes:
        now += timedelta(hours=hours)
        if noted is not None and parse(noted["gracePeriod"]) > parse(grace):
            given_up.append((parse(noted["gracePeriod"]), now + parse(noted["gracePeriod"])))
        noted = guards.observe(noted, wanted(grace), 0, now)
    deleted_at = now + timedelta(hours=wait)
    assert noted is not None
    least = max([parse(noted["gracePeriod"]), *(p for p, until in given_up if deleted_at < until)])
    assert guards.grace_period(noted, deleted_at) >= least


@pytest.mark.parametrize(
    ("old", "new", "secrets", "protected"),
    [
        (False, True, 3, True),
        (True, True, 0, True),
        (True, False, 3, True),
        (True, False, None, True),
        (True, False, 0, False),
        (False, False, 3, False),
    ],
)
def test_protection_ends_only_when_nothing_depends_on_the_key(
    old: bool, new: bool, secrets: int | None, protected: bool
) -> None:
    noted = guards.observe(wanted(protected=old), wanted(protected=new), secrets, NOW)
    assert noted["protected"] is protected


FRESH = {"observedAt": "2026-03-01T11:58:00Z"}


@pytest.mark.parametrize(
    ("dependents", "error"),
    [
        (FRESH | {"secrets": 0}, None),
        (FRESH | {"secrets": 2}, KeyProtected),
        ({}, PolicyNotFresh),
        ({"secrets": 0}, PolicyNotFresh),
        ({"secrets": 0, "observedAt": "2026-03-01T11:54:59Z"}, PolicyNotFresh),
    ],
)
def test_a_protected_key_is_let_go_only_by_a_recent_count_of_nothing(
    dependents: dict[str, Any], error: type[Exception] | None
) -> None:
    if error is None:
        guards.check_unused("rk", dependents, NOW)
        guards.check_weakening("rk", wanted(protected=True), wanted(), wanted(protected=True), dependents, NOW)
        return
    with pytest.raises(error, match="RootKey rk is protected"):
        guards.check_unused("rk", dependents, NOW)
    with pytest.raises(error, match="RootKey rk is protected"):
        guards.check_weakening("rk", wanted(protected=True), wanted(), wanted(protected=True), dependents, NOW)


def test_a_period_that_the_ledger_does_not_know_yet_cannot_be_lowered() -> None:
    with pytest.raises(PolicyNotFresh, match="has not taken note of the gracePeriod 72h"):
        guards.check_weakening("rk", wanted("72h"), wanted("1h"), None, {}, NOW)
    guards.check_weakening("rk", wanted("72h"), wanted("1h"), wanted("72h"), {}, NOW)
    guards.check_weakening("rk", wanted("1h"), wanted("72h"), None, {}, NOW)


def test_the_ledger_is_told_in_words() -> None:
    noted = guards.observe(wanted("72h", True), wanted("0s"), 1, NOW)
    assert guards.describe(noted) == (
        "gracePeriod 0s, protected true; 72h still counts until 2026-03-04T12:00:00.000000Z"
    )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, r"gracePeriod 24h0m0s or more \(it is 0s\) and protected: true"),
        ({"gracePeriod": "23h59m", "protected": True}, "gracePeriod 24h0m0s"),
        ({"gracePeriod": "24h"}, "protected: true"),
        ({"gracePeriod": "1440m", "protected": True}, None),
        ({"gracePeriod": "72h", "protected": True}, None),
    ],
)
def test_floors(spec: dict[str, Any], says: str | None) -> None:
    floors = guards.Floors(timedelta(hours=24), protected=True)
    wanted = guards.asked({"destruction": spec})
    guards.Floors().check("a", wanted)
    if says is None:
        floors.check("a", wanted)
    else:
        with pytest.raises(Refused, match=says):
            floors.check("a", wanted)
