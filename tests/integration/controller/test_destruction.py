"""Keys destroyed, keys kept, and what the record says of it."""

import uuid

import pytest

from tests.cluster.paths import REPOSITORY
from tests.cluster.softhsm import SoftHsm
from tests.integration.controller.lab import ACTIVE, DESTROYED, Lab, until, until_equal


def test_from_creation_to_destruction(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    assert lab.actions(key_id) == ACTIVE
    assert lab.on_token(key_id) == 1
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.on_token(key_id) == 0
    status = lab.get("keyrecord", key_id)["status"]
    assert status["state"] == "Destroyed"
    evidence = status["evidence"]
    assert (evidence["outcome"], evidence["class"]) == ("performed", "software-logical")
    assert (evidence["requestedBy"], evidence["objectsDestroyed"], evidence["signed"]) == ("key-admin", 1, False)
    assert evidence["controls"]["before"]["canaryOpened"] is True
    until_equal(lambda: lab.actions(key_id), [*DESTROYED, "SearchRepeated"])
    assert lab.get("keyrecord", key_id)["status"]["evidence"]["repeatSearch"]["objectsFound"] == 0


@pytest.mark.parametrize(
    "faultpoint",
    [
        "before-Start",
        "after-Start",
        "before-Control",
        "unheaded-ControlPassed",
        "after-Control",
        "before-Destroy",
        "destroyed-unrecorded",
        "unheaded-ObjectsDestroyed",
        "after-Destroy",
        "before-Verify",
        "after-Verify",
        "before-Release",
    ],
)
def test_killed_at_any_step_it_ends_in_the_same_place(running: Lab, name: str, faultpoint: str) -> None:
    running.start(faultpoint=faultpoint)
    key_id = running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    running.delete(name)
    until(lambda: running.controller.pid is None)
    assert not running.is_gone("rootkey", name)
    running.start()
    until(lambda: running.is_gone("rootkey", name))
    assert running.on_token(key_id) == 0
    status = running.get("keyrecord", key_id)["status"]
    assert (status["state"], status["evidence"]["outcome"]) == ("Destroyed", "performed")
    assert running.actions(key_id)[: len(DESTROYED)] == DESTROYED
    until_equal(lambda: running.actions(key_id), [*DESTROYED, "SearchRepeated"])


def test_a_key_half_made_can_be_destroyed(running: Lab, name: str) -> None:
    running.start(faultpoint="after-Generate")
    key_id = running.root_key(name)
    until(lambda: running.controller.pid is None)
    assert running.on_token(key_id) == 1
    running.delete(name)
    running.start()
    until(lambda: running.is_gone("rootkey", name))
    assert running.on_token(key_id) == 0
    evidence = running.get("keyrecord", key_id)["status"]["evidence"]
    assert (evidence["outcome"], "canaryOpened" in evidence["controls"]["before"]) == ("performed", False)


def test_a_key_that_was_never_made_was_absent(running: Lab, name: str) -> None:
    running.start(faultpoint="before-Generate")
    key_id = running.root_key(name)
    until(lambda: running.controller.pid is None)
    running.delete(name)
    running.start()
    until(lambda: running.is_gone("rootkey", name))
    status = running.get("keyrecord", key_id)["status"]
    assert (status["state"], status["evidence"]["outcome"]) == ("Destroyed", "absenceObserved")


def test_a_token_that_is_away_changes_no_state(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.hsm.take_away()
    try:
        until_equal(lambda: lab.ready(name)[0], "False")
        status = lab.get("rootkey", name)["status"]
        assert status["state"] == "Active"
        lab.delete(name)
        until_equal(lambda: lab.get("rootkey", name)["status"]["state"], "PendingDestruction")
        until_equal(lambda: lab.ready(name), ("False", "HsmUnavailable"))
        assert not lab.is_gone("rootkey", name)
    finally:
        lab.hsm.give_back()
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.on_token(key_id) == 0


def test_another_token_destroys_nothing_and_proves_nothing(running: Lab, name: str) -> None:
    running.start(faultpoint="after-Control")
    key_id = running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    running.delete(name)
    until(lambda: running.controller.pid is None)
    running.start(hsm=SoftHsm.create(running.cluster.directory / name))
    until_equal(lambda: running.ready(name), ("False", "TokenMismatch"))
    assert running.get("keyrecord", key_id)["status"]["state"] == "PendingDestruction"
    assert running.on_token(key_id) == 1
    running.start()
    until(lambda: running.is_gone("rootkey", name))
    assert running.on_token(key_id) == 0


def test_another_key_under_that_name_is_not_destroyed(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.destroy(key_id)
    lab.generate(key_id)
    lab.delete(name)
    until_equal(lambda: lab.ready(name), ("False", "TokenMismatch"))
    assert lab.on_token(key_id) == 1
    assert lab.actions(key_id)[-1] == "DestructionStarted"
    # What a person does who has looked at it and knows that it is of no use.
    lab.destroy(key_id)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.get("keyrecord", key_id)["status"]["evidence"]["outcome"] == "absenceObserved"


@pytest.mark.parametrize(
    ("field", "other"), [("checkValue", "0" * 32), ("canary", "A" * 80)], ids=["checkValue", "canary"]
)
def test_check_value_and_canary_each_stop_it(lab: Lab, name: str, field: str, other: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    recorded = lab.get("keyrecord", key_id)["status"]["versions"][0][field]
    assert len(recorded) == len(other)
    lab.rewrite(key_id, field, other)
    lab.delete(name)
    until(lambda: lab.get("rootkey", name)["status"]["state"] == "PendingDestruction")
    until_equal(lambda: lab.ready(name), ("False", "TokenMismatch"))
    assert lab.on_token(key_id) == 1
    assert lab.actions(key_id)[-1] == "DestructionStarted"
    lab.rewrite(key_id, field, recorded)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.on_token(key_id) == 0


def test_a_copy_under_another_label_is_found(lab: Lab, name: str) -> None:
    # keyshred's own keys cannot be copied; one that was made elsewhere may have been imported twice.
    key_id, copy = str(uuid.uuid4()), str(uuid.uuid4())
    lab.import_twins(key_id, copy)
    lab.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.delete(name)
    until_equal(lambda: lab.ready(name), ("False", "TokenBroken"))
    assert (lab.on_token(key_id), lab.on_token(copy)) == (0, 1)
    assert lab.actions(key_id)[-1] == "ObjectsDestroyed"
    lab.destroy(copy)
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.get("keyrecord", key_id)["status"]["state"] == "Destroyed"


def test_a_deletion_past_admission_keeps_the_key(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.kubectl.run("delete", "rootkey", name, "--wait=false")
    until(lambda: lab.is_gone("rootkey", name))
    assert lab.on_token(key_id) == 1
    assert lab.actions(key_id) == [*ACTIVE, "Kept"]


def test_a_finalizer_taken_by_force_keeps_the_key(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.kubectl.run("patch", "rootkey", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    lab.kubectl.run("delete", "rootkey", name)
    until_equal(lambda: lab.actions(key_id), [*ACTIVE, "Kept"])
    assert lab.on_token(key_id) == 1


def test_a_destroyed_key_id_is_never_used_again(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    lab.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("False", "KeyIDDestroyed"))
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))


def test_a_key_that_comes_back_is_reported(lab: Lab, name: str) -> None:
    lab.controller.stop()
    lab.start("--repeat-search-after=15")
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    lab.generate(key_id)
    until(lambda: "SearchRepeated" in lab.actions(key_id))
    status = lab.get("keyrecord", key_id)["status"]
    assert status["evidence"]["repeatSearch"]["objectsFound"] == 1
    assert "found this key again" in status["message"]


def test_a_kept_key_is_not_ended_by_a_root_key_that_never_held_it(lab: Lab, name: str) -> None:
    """A RootKey from its backup, applied while admission was away, must not take the key along when it goes again."""
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.kubectl.run("delete", "rootkey", name, "--timeout=180s")  # past admission: nothing was recorded
    assert lab.actions(key_id) == [*ACTIVE, "Kept"]
    lab.root_key(name, keyID=key_id)
    until_equal(lambda: lab.ready(name), ("False", "KeyIDInUse"))
    lab.delete(name)
    lab.kubectl.run("wait", "--for=delete", f"rootkey/{name}", "--timeout=180s")
    assert "DestructionStarted" not in lab.actions(key_id)
    assert lab.on_token(key_id) == 1


def test_crds_that_go_and_come_back(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.kubectl.run("delete", "crd", "rootkeys.keyshred.dev", "--timeout=180s")
    assert lab.actions(key_id) == [*ACTIVE, "Kept"]
    assert lab.on_token(key_id) == 1
    lab.kubectl.run("apply", "--server-side", "-f", str(REPOSITORY / "crds" / "rootkeys.yaml"))
    lab.kubectl.run("wait", "--for=condition=Established", "crd/rootkeys.keyshred.dev", "--timeout=180s")
    lab.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    assert lab.actions(key_id) == [*ACTIVE, "Kept", "Adopted"]
