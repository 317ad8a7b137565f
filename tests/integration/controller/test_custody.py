"""What the token remembers for us: claims and the ledger's head; and ledgers that are broken, old or gone."""

import json
import os
import signal
import uuid

import pytest

from tests.cluster.processes import Process
from tests.cluster.softhsm import SoftHsm
from tests.integration.controller.lab import ACTIVE, DESTROYED, SOON_TAKEN, Lab, until, until_equal

ANOTHER = "0b5e7a52-0000-4000-8000-00000000000b"
"""UID of a cluster that is not this one."""


def make(lab: Lab, name: str, **spec: object) -> str:
    key_id = lab.root_key(name, **spec)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    return key_id


def test_a_key_is_claimed_and_its_ledger_has_a_head(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    assert lab.claims(key_id) == {lab.cluster_uid()}
    head = lab.head(key_id)
    assert (head["seq"], head["state"], head["cluster"]) == (len(ACTIVE), "Active", lab.cluster_uid())
    assert lab.get("keyrecord", key_id)["status"]["token"]["dataObjects"] is True
    # Lost, they are made anew at the next look.
    for label in (f"keyshred-claim:{key_id}:{lab.cluster_uid()}", f"keyshred-head:{key_id}"):
        lab.remove_data_object(label)
    until_equal(lambda: (lab.claims(key_id), lab.head(key_id)), ({lab.cluster_uid()}, head))
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.claims(key_id) == set()
    assert lab.head(key_id)["state"] == "Destroyed"


def test_a_key_that_another_cluster_claims_is_not_destroyed(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    lab.claim(key_id, ANOTHER)
    lab.delete(name)
    until_equal(lambda: lab.ready(name), ("False", "KeyClaimed"))
    assert ANOTHER in lab.message(name)
    until_equal(lambda: lab.stalled(key_id), "KeyClaimed")
    events = lab.kubectl("get", "events", "--field-selector=reason=KeyClaimed")["items"]
    assert any(ANOTHER in e["message"] for e in events if e["involvedObject"]["name"] == name)
    assert lab.on_token(key_id) == 1
    # Our own is given up all the same: two clusters that both want it gone must not wait for each other.
    assert lab.claims(key_id) == {ANOTHER}
    lab.remove_data_object(f"keyshred-claim:{key_id}:{ANOTHER}")
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.on_token(key_id) == 0
    assert lab.stalled(key_id) == ""


def test_a_claim_that_comes_within_the_grace_period_leaves_the_key_to_be_restored(lab: Lab, name: str) -> None:
    key_id = make(lab, name, destruction={"gracePeriod": "1s"})
    lab.claim(key_id, ANOTHER)
    lab.delete(name)
    until_equal(lambda: lab.stalled(key_id), "KeyClaimed")
    until(lambda: lab.is_gone("rootkey", name))
    assert "DestructionStarted" not in lab.actions(key_id)
    lab.root_key(f"{name}-2", keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(f"{name}-2"), ("True", "KeyActive"))
    assert lab.stalled(key_id) == ""


def test_the_head_of_a_cluster_that_uses_the_key_is_left_alone(lab: Lab, name: str) -> None:
    key_id = str(uuid.uuid4())
    theirs = {"cluster": ANOTHER, "seq": 40, "hash": "0" * 64, "state": "Active"}
    lab.generate(key_id)
    lab.claim(key_id, ANOTHER)
    lab.set_head(key_id, theirs)
    make(lab, name, keyID=key_id, origin="Adopted")
    assert lab.claims(key_id) == {ANOTHER, lab.cluster_uid()}
    assert lab.head(key_id) == theirs
    lab.remove_data_object(f"keyshred-claim:{key_id}:{ANOTHER}")
    until_equal(lambda: lab.head(key_id)["cluster"], lab.cluster_uid())


def test_an_older_record_destroys_nothing_without_a_person(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    older = lab.get("keyrecord", key_id)
    lab.change(name, suspended=True)
    until_equal(lambda: lab.ready(name), ("False", "KeySuspended"))
    until_equal(lambda: lab.head(key_id)["state"], "Suspended")
    lab.put_record(older)
    until_equal(lambda: lab.ready(name), ("False", "LedgerBehindToken"))
    assert f"keyshred-head:{key_id}" in lab.message(name)
    lab.change(name, suspended=False)
    lab.delete(name)
    until(lambda: "the destruction waits" in lab.message(name))
    assert lab.ready(name) == ("False", "LedgerBehindToken")
    assert lab.actions(key_id) == [*ACTIVE, "DeleteAdmitted"]
    assert lab.on_token(key_id) == 1
    lab.remove_data_object(f"keyshred-head:{key_id}")
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.on_token(key_id) == 0
    assert lab.actions(key_id)[: len(DESTROYED)] == DESTROYED


def test_a_decided_end_is_not_undone_by_an_older_record(lab: Lab, name: str) -> None:
    """A cluster restored to before the delete: RootKey and KeyRecord know nothing of it, the token does."""
    key_id = make(lab, name, destruction={"gracePeriod": "1h"})
    older, actions = lab.get("keyrecord", key_id), lab.actions(key_id)
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    lab.put_record(older)
    lab.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("False", "LedgerBehindToken"))
    assert lab.get("rootkey", name)["status"]["state"] == "PendingDestruction"
    # A resync that falls between the two notes that the key is nobody's, and is kept.
    assert [action for action in lab.actions(key_id) if action != "Kept"] == actions


def test_a_record_begun_anew_takes_no_key(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    lab.kubectl.run("patch", "rootkey", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    lab.kubectl.run("delete", "rootkey", name)
    lab.kubectl.run("delete", "keyrecord", key_id)
    lab.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("False", "LedgerBehindToken"))
    assert "Adopted" not in lab.actions(key_id)


def test_a_record_that_vanishes_while_its_key_lives_is_not_begun_anew(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    lab.kubectl.run("delete", "keyrecord", key_id)
    lab.destroy(key_id)
    until_equal(lambda: lab.ready(name), ("False", "LedgerBroken"))
    assert lab.is_gone("keyrecord", key_id)
    assert lab.on_token(key_id) == 0


def test_a_record_that_vanishes_in_mid_destruction_is_missed(running: Lab, name: str) -> None:
    running.start(faultpoint="after-Control")
    key_id = make(running, name)
    running.delete(name)
    until(lambda: running.controller.pid is None)
    record = running.get("keyrecord", key_id)
    running.kubectl.run("delete", "keyrecord", key_id)
    running.start()
    until_equal(lambda: running.ready(name), ("False", "LedgerBroken"))
    assert running.is_gone("keyrecord", key_id)
    assert running.on_token(key_id) == 1
    running.put_record(record)
    until(lambda: running.is_gone("rootkey", name))
    assert running.on_token(key_id) == 0


def test_a_changed_ledger_stops_everything(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    _rewrite_first_entry(lab, key_id, "somebody")
    lab.change(name, suspended=True)
    until_equal(lambda: lab.ready(name), ("False", "LedgerBroken"))
    lab.kubectl.run("delete", "rootkey", name, "--wait=false")
    until(lambda: "the destruction waits" in lab.message(name))
    assert lab.on_token(key_id) == 1
    _rewrite_first_entry(lab, key_id, "keyshred-controller")
    until_equal(lambda: lab.actions(key_id)[-1], "Kept")


def _rewrite_first_entry(lab: Lab, key_id: str, by: str) -> None:
    patch = [{"op": "replace", "path": "/status/transitions/0/by", "value": by}]
    lab.kubectl.run("patch", "keyrecord", key_id, "--subresource=status", "--type=json", "-p", json.dumps(patch))


def test_a_lost_key_is_told_and_never_made_anew(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    lab.destroy(key_id)
    until_equal(lambda: lab.ready(name), ("False", "KeyMissing"))
    lab.controller.stop()
    lab.start()
    lab.change(name, suspended=True)
    until_equal(lambda: lab.actions(key_id)[-1], "Suspended")
    shown = {c["type"]: (c["status"], c["reason"]) for c in lab.get("rootkey", name)["status"]["conditions"]}
    assert shown["KeyMaterialPresent"] == ("False", "KeyMissing")
    assert lab.on_token(key_id) == 0
    assert lab.actions(key_id).count("GenerateStarted") == 1


# --- the CRD that goes while a delete that went nowhere still counts


def test_a_deleted_crd_after_a_refused_delete_keeps_the_key(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    lab.admit(name)  # and another webhook refused it
    lab.kubectl.run("delete", "crd", "rootkeys.keyshred.dev", "--timeout=180s")
    assert lab.actions(key_id) == [*ACTIVE, "DeleteAdmitted", "Kept"]
    assert lab.on_token(key_id) == 1
    lab.install_crds()
    until(lambda: lab.serves("rootkeys"))
    lab.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))


def test_attempts_that_go_nowhere_do_not_fill_the_ledger(lab: Lab, name: str) -> None:
    key_id = make(lab, name)
    for _ in range(3):
        lab.admit(name)
    assert lab.actions(key_id) == [*ACTIVE, "DeleteAdmitted"]
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.actions(key_id)[: len(DESTROYED)] == DESTROYED


# --- two controllers


@pytest.mark.parametrize("faultpoint", ["stop:before-Destroy", "stop:claim-given-up"])
def test_a_controller_that_slept_past_its_lease_destroys_nothing(running: Lab, name: str, faultpoint: str) -> None:
    second = Process("controller-2", running.cluster.directory)
    running.start(*SOON_TAKEN, faultpoint=faultpoint)
    key_id = make(running, name)
    running.delete(name)
    until(lambda: _is_stopped(running.controller))
    # On another token, it takes the Lease and leaves the key alone.
    running.start(*SOON_TAKEN, process=second, hsm=SoftHsm.create(running.cluster.directory / name))
    try:
        until_equal(lambda: running.ready(name), ("False", "TokenMismatch"))
        _go_on(running.controller)
        until(lambda: running.controller.pid is None)
        assert running.on_token(key_id) == 1
    finally:
        second.stop()
    running.start()
    until(lambda: running.is_gone("rootkey", name))
    assert running.on_token(key_id) == 0


def test_a_controller_that_slept_past_its_lease_makes_no_key(running: Lab, name: str) -> None:
    """Else it would make one after its destruction was recorded."""
    second = Process("controller-2", running.cluster.directory)
    running.start(*SOON_TAKEN, faultpoint="stop:before-Generate")
    key_id = running.root_key(name)
    until(lambda: _is_stopped(running.controller))
    running.delete(name)
    running.start(*SOON_TAKEN, process=second)
    try:
        until(lambda: running.is_gone("rootkey", name))
        assert running.get("keyrecord", key_id)["status"]["evidence"]["outcome"] == "absenceObserved"
        _go_on(running.controller)
        until(lambda: running.controller.pid is None)
        assert running.on_token(key_id) == 0
    finally:
        second.stop()


def _is_stopped(process: Process) -> bool:
    pid = process.pid
    assert pid is not None
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


def _go_on(process: Process) -> None:
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGCONT)
