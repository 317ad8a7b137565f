"""Grace periods, restores, and guards that are weakened."""

from datetime import datetime, timedelta

import pytest

from keyshred.times import utc_now
from tests.integration.controller.lab import ACTIVE, DESTROYED, Lab, until, until_equal

GUARDED = [*ACTIVE[:3], "GuardsChanged", "Activated"]
SCHEDULED = [*GUARDED, "DeleteAdmitted", "DestructionScheduled"]
SHREDDED = [*SCHEDULED, *DESTROYED[5:]]


def make(lab: Lab, name: str, grace: str) -> str:
    key_id = lab.root_key(name, destruction={"gracePeriod": grace})
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    return key_id


def restore(lab: Lab, name: str, key_id: str) -> None:
    lab.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))


def waits_for(lab: Lab, key_id: str) -> timedelta:
    """From the admitted delete to the destruction, which is whole seconds later than the deletion."""
    wish = lab.get("keyrecord", key_id)["status"]["destruction"]
    due, asked = (datetime.fromisoformat(wish[field]) for field in ("dueAt", "requestedAt"))
    return timedelta(seconds=round((due - asked).total_seconds() / 60) * 60)


def test_a_deleted_key_waits_and_can_be_taken_back(lab: Lab, name: str) -> None:
    key_id = make(lab, name, "1h")
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.actions(key_id) == SCHEDULED
    status = lab.get("keyrecord", key_id)["status"]
    assert status["state"] == "PendingDestruction"
    assert "takes it back" in status["message"]
    assert (status["destruction"]["requestedBy"], status["destruction"]["rootKeyName"]) == ("key-admin", name)
    assert waits_for(lab, key_id) == timedelta(hours=1)
    assert lab.on_token(key_id) == 1
    assert lab.head(key_id)["state"] == "PendingDestruction"
    lab.controller.stop()
    lab.start()
    restore(lab, f"{name}-2", key_id)
    actions = lab.actions(key_id)
    assert actions[: len(SCHEDULED) + 1] == [*SCHEDULED, "Restored"] and actions[-1] == "Activated"
    status = lab.get("keyrecord", key_id)["status"]
    assert "destruction" not in status and "message" not in status
    # A RootKey without a grace period is no way around the old one.
    lab.delete(f"{name}-2")
    until(lambda: lab.is_gone("rootkey", f"{name}-2"))
    assert waits_for(lab, key_id) == timedelta(hours=1)


def test_a_lowered_grace_period_does_not_count_at_once(lab: Lab, name: str) -> None:
    key_id = make(lab, name, "1h")
    lab.change(name, destruction={"gracePeriod": "0s"})
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.get("keyrecord", key_id)["status"]["state"] == "PendingDestruction"
    assert waits_for(lab, key_id) == timedelta(hours=1)
    assert lab.on_token(key_id) == 1


def test_a_grace_period_lowered_on_the_way_out_does_not_count(running: Lab, name: str) -> None:
    running.ensure_started()
    key_id = make(running, name, "1h")
    running.controller.stop()
    running.delete(name)
    running.change(name, destruction={"gracePeriod": "0s"})
    running.start()
    until(lambda: running.is_gone("rootkey", name))
    assert waits_for(running, key_id) == timedelta(hours=1)


@pytest.mark.parametrize(
    "faultpoint",
    [
        "before-Schedule",
        "unheaded-DestructionScheduled",
        "after-Schedule",
        "before-Start",
        "unheaded-DestructionStarted",
        "claim-given-up",
        "unheaded-Destroyed",
    ],
)
def test_killed_at_any_step_it_is_destroyed_when_it_is_due(running: Lab, name: str, faultpoint: str) -> None:
    running.start(faultpoint=faultpoint)
    key_id = make(running, name, "2s")
    running.delete(name)
    until(lambda: running.controller.pid is None)
    running.start()
    until_equal(lambda: running.actions(key_id), [*SHREDDED, "SearchRepeated"])
    until(lambda: running.is_gone("rootkey", name))
    assert running.on_token(key_id) == 0
    status = running.get("keyrecord", key_id)["status"]
    evidence = status["evidence"]
    assert (evidence["outcome"], evidence["requestedBy"], evidence["rootKeyName"]) == ("performed", "key-admin", name)
    started = next(t["time"] for t in status["transitions"] if t["action"] == "DestructionStarted")
    assert datetime.fromisoformat(started) >= datetime.fromisoformat(status["destruction"]["dueAt"])
    assert running.claims(key_id) == set()
    until_equal(lambda: running.head(key_id)["seq"], len(SHREDDED) + 1)


@pytest.mark.parametrize("faultpoint", ["before-Restored", "unheaded-Restored", "after-Restored"])
def test_killed_while_restoring_it_is_restored(running: Lab, name: str, faultpoint: str) -> None:
    running.start(faultpoint=faultpoint)
    key_id = make(running, name, "1h")
    running.delete(name)
    until(lambda: running.is_gone("rootkey", name))
    running.root_key(f"{name}-2", keyID=key_id, origin="Adopted")
    until(lambda: running.controller.pid is None)
    running.start()
    until_equal(lambda: running.ready(f"{name}-2"), ("True", "KeyActive"))
    assert running.actions(key_id).count("Restored") == 1
    until_equal(lambda: running.head(key_id)["state"], "Active")


def test_a_key_that_is_asked_for_in_time_is_not_destroyed_while_the_token_is_away(lab: Lab, name: str) -> None:
    key_id = make(lab, name, "20s")
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    due = datetime.fromisoformat(lab.get("keyrecord", key_id)["status"]["destruction"]["dueAt"])
    lab.hsm.take_away()
    try:
        lab.root_key(f"{name}-2", keyID=key_id, origin="Adopted")
        until(lambda: utc_now() > due + timedelta(seconds=1))
    finally:
        lab.hsm.give_back()
    until_equal(lambda: lab.ready(f"{name}-2"), ("True", "KeyActive"))
    assert "DestructionStarted" not in lab.actions(key_id)
    # It was not even tried: what a try finds in the way is told about the KeyRecord.
    events = lab.kubectl("get", "events", f"--field-selector=involvedObject.name={key_id}")["items"]
    assert "HsmUnavailable" not in [e["reason"] for e in events]


def test_what_has_begun_is_not_restored(running: Lab, name: str) -> None:
    running.start(faultpoint="after-Start")
    key_id = make(running, name, "1s")
    running.delete(name)
    until(lambda: running.controller.pid is None)
    running.root_key(f"{name}-2", keyID=key_id, origin="Adopted")
    running.start()
    until_equal(lambda: running.get("keyrecord", key_id)["status"]["state"], "Destroyed")
    until(lambda: running.ready(f"{name}-2")[1] in ("DestructionStarted", "KeyIDDestroyed"))
    assert running.on_token(key_id) == 0


def test_a_protected_key_is_not_destroyed_while_secrets_depend_on_it(lab: Lab, name: str) -> None:
    """What slipped by admission: there is none here."""
    key_id = lab.root_key(name, destruction={"protected": True})
    lab.kubectl.run("create", "namespace", name)
    lab.authorize(name, {"rootKeyRef": {"name": name}, "namespaces": {"names": [name]}})
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    until(lambda: lab.get("namespace", name)["metadata"]["labels"].get("keyshred.dev/sealing"))
    lab.seal(name, "database", key_id)
    lab.delete(name)
    until_equal(lambda: lab.ready(name), ("False", "KeyProtected"))
    assert "1 sealed Secrets depend on it" in lab.message(name)
    assert "DestructionStarted" not in lab.actions(key_id)
    lab.kubectl.run("delete", "secret", "database", f"--namespace={name}")
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.on_token(key_id) == 0
    lab.kubectl.run("delete", "keyauthorization", name)
