"""The life of a root key."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from keyshred.envelope.format import Born
from keyshred.names import KeyState, Reason
from keyshred.policy.conditions import Status
from keyshred.policy.found import Sealed
from keyshred.policy.ledger import Action
from keyshred.policy.lifecycle import (
    SOFTWARE_CLAUSE,
    UNGUARDED_CLAUSE,
    Dependents,
    Material,
    Tally,
    conditions,
    intended_state,
    is_lost,
    next_moment,
    status,
    transition,
)
from keyshred.policy.resources import RootKey

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY_ID = "7f1d1c52-9a7c-4a4f-9d55-0a6a2b1f7d11"
VERSION = {"version": 1, "mechanism": "AES_GCM", "checkValue": "ab" * 16, "canary": "x", "createdAt": "t"}
MADE: dict[str, Any] = {"versions": [VERSION]}


def key(**spec: Any) -> RootKey:
    times = {k: v.isoformat() for k, v in spec.items() if isinstance(v, datetime)}
    return RootKey.parse({"metadata": {"name": "k", "uid": "u"}, "spec": {"keyID": KEY_ID} | spec | times})


@pytest.mark.parametrize(
    ("spec", "record", "state"),
    [
        ({}, {}, KeyState.PRE_ACTIVATION),
        ({"suspended": True}, {}, KeyState.PRE_ACTIVATION),
        ({}, MADE, KeyState.ACTIVE),
        ({"suspended": True}, MADE, KeyState.SUSPENDED),
        ({"activationTime": NOW + HOUR}, MADE, KeyState.PRE_ACTIVATION),
        # Shown as PreActivation until its time, and Active then, whatever the status said before.
        ({"activationTime": NOW}, MADE | {"state": "PreActivation"}, KeyState.ACTIVE),
        ({"expirationTime": NOW}, MADE, KeyState.DEACTIVATED),
    ],
)
def test_intended_state(spec: dict[str, Any], record: dict[str, Any], state: KeyState) -> None:
    assert intended_state(key(**spec), record, NOW) is state


@pytest.mark.parametrize(
    ("before", "after", "action"),
    [
        (KeyState.PRE_ACTIVATION, KeyState.ACTIVE, Action.ACTIVATED),
        (KeyState.SUSPENDED, KeyState.ACTIVE, Action.RESUMED),
        (KeyState.DEACTIVATED, KeyState.ACTIVE, Action.RESUMED),
        (KeyState.ACTIVE, KeyState.SUSPENDED, Action.SUSPENDED),
        (KeyState.ACTIVE, KeyState.PRE_ACTIVATION, Action.SUSPENDED),
        (KeyState.SUSPENDED, KeyState.DEACTIVATED, Action.DEACTIVATED),
    ],
)
def test_transition(before: KeyState, after: KeyState, action: Action) -> None:
    assert transition(before, after) is action


@pytest.mark.parametrize(
    ("spec", "moment"),
    [
        ({}, None),
        ({"activationTime": NOW}, None),
        ({"activationTime": NOW - HOUR, "expirationTime": NOW + HOUR}, NOW + HOUR),
        ({"activationTime": NOW + HOUR, "expirationTime": NOW + 2 * HOUR}, NOW + HOUR),
    ],
)
def test_next_moment(spec: dict[str, Any], moment: datetime | None) -> None:
    assert next_moment(key(**spec), NOW) == moment


def test_no_key_is_ready_without_its_material() -> None:
    missing = Material(Status.FALSE, Reason.KEY_MISSING, "gone")
    ready, present = conditions(KeyState.ACTIVE, missing)
    assert (ready.status, ready.reason) == (Status.FALSE, Reason.KEY_MISSING)
    assert present.status is Status.FALSE


def test_a_software_token_is_named() -> None:
    for software in (True, False):
        present = Material(Status.TRUE, Reason.KEY_PRESENT, "there", software)
        ready, _ = conditions(KeyState.ACTIVE, present)
        assert ready.status is Status.TRUE
        assert ready.message.endswith(SOFTWARE_CLAUSE) is software


def test_a_token_that_guards_nothing_is_named() -> None:
    for guarded in (True, False):
        material = Material(Status.TRUE, Reason.KEY_PRESENT, "m", guarded=guarded)
        assert conditions(KeyState.ACTIVE, material)[0].message.endswith(UNGUARDED_CLAUSE) is not guarded


@pytest.mark.parametrize(
    ("shown", "record", "lost"),
    [
        ((), None, False),
        ((), {}, False),
        ((VERSION,), None, True),
        # Begun anew, by the admission of a delete.
        ((VERSION,), {"state": "PreActivation"}, True),
        ((VERSION,), MADE, False),
    ],
)
def test_a_key_that_had_a_record_is_missed(shown: tuple[Any, ...], record: dict[str, Any] | None, lost: bool) -> None:
    obj = {"metadata": {"name": "k"}, "spec": {"keyID": KEY_ID}, "status": {"versions": list(shown)}}
    assert is_lost(RootKey.parse(obj), record) is lost


def obj(**old: Any) -> dict[str, Any]:
    return {"metadata": {"name": "k"}, "status": old}


def counted(secrets: int, at: datetime) -> Dependents:
    return Dependents(secrets, 1, {1: secrets}, 0, None, at)


def test_status_shows_no_canary() -> None:
    shown = status(obj(), MADE, KeyState.ACTIVE, counted(3, NOW), fresh=HOUR)
    assert shown["versions"] == [
        {
            "version": 1,
            "mechanism": "AES_GCM",
            "checkValue": "ab" * 16,
            "createdAt": "t",
            "state": "Active",
            "secrets": 3,
        }
    ]
    assert (shown["state"], shown["currentVersion"]) == ("Active", 1)
    assert shown["dependents"] == {"secrets": 3, "namespaces": 1, "observedAt": "2026-03-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("shown", "later", "observed"),
    [
        (3, timedelta(minutes=59), "2026-03-01T12:00:00Z"),
        (3, HOUR, "2026-03-01T13:00:00Z"),
        (2, timedelta(minutes=1), "2026-03-01T12:01:00Z"),
    ],
)
def test_counts_keep_their_time_for_a_while(shown: int, later: timedelta, observed: str) -> None:
    old = {"dependents": {"secrets": shown, "namespaces": 1, "observedAt": "2026-03-01T12:00:00Z"}}
    result = status(obj(**old), MADE, KeyState.ACTIVE, counted(3, NOW + later), fresh=HOUR)
    assert result["dependents"] == {"secrets": 3, "namespaces": 1, "observedAt": observed}


def test_only_the_current_version_is_active() -> None:
    versions = {"versions": [VERSION, VERSION | {"version": 2}]}
    shown = status(obj(), versions, KeyState.ACTIVE, None, fresh=HOUR)["versions"]
    assert [v["state"] for v in shown] == ["Deactivated", "Active"]


def test_tally() -> None:
    tally = Tally()
    for namespace, version, born, at in (
        ("a", 1, Born.SEALED, NOW),
        ("a", 2, Born.ADOPTED, NOW + HOUR),
        ("b", 1, Born.ADOPTED, NOW),
    ):
        tally.add(namespace, Sealed(UUID(KEY_ID), version, born, at))
    assert tally.result(NOW) == Dependents(3, 2, {1: 2, 2: 1}, 2, NOW, NOW)
