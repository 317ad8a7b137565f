"""Keys made, taken over, missed, suspended."""

import uuid
from datetime import timedelta

import pytest

from keyshred.names import API_VERSION
from keyshred.times import rfc3339, utc_now
from tests.integration.controller.lab import ACTIVE, Lab, until, until_equal


@pytest.mark.parametrize(
    "faultpoint",
    [
        "unheaded-GenerateStarted",
        "claimed",
        "before-Generate",
        "after-Generate",
        "unheaded-Generated",
        "after-Generated",
    ],
)
def test_killed_while_making_a_key_it_makes_one(running: Lab, name: str, faultpoint: str) -> None:
    running.start(faultpoint=faultpoint)
    key_id = running.root_key(name)
    until(lambda: running.controller.pid is None)
    running.start()
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    assert running.on_token(key_id) == 1
    assert running.actions(key_id) == ACTIVE
    assert running.claims(key_id) == {running.cluster_uid()}
    until_equal(lambda: running.head(key_id)["seq"], len(ACTIVE))


def test_a_key_that_is_not_ours_is_not_taken(lab: Lab, name: str) -> None:
    key_id = str(uuid.uuid4())
    lab.generate(key_id)
    lab.root_key(name, keyID=key_id)
    until_equal(lambda: lab.ready(name), ("False", "KeyAmbiguous"))
    assert lab.actions(key_id) == ["Created"]


def test_a_missing_key_is_never_made_anew(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name, origin="Adopted")
    until_equal(lambda: lab.ready(name), ("False", "KeyMissing"))
    assert lab.on_token(key_id) == 0
    lab.generate(key_id)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    assert lab.actions(key_id) == ["Created", "Adopted", "Activated"]


def test_suspending_and_resuming(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name, suspended=True)
    until_equal(lambda: lab.ready(name), ("False", "KeySuspended"))
    lab.change(name, suspended=False)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.change(name, suspended=True)
    until_equal(lambda: lab.ready(name), ("False", "KeySuspended"))
    assert lab.actions(key_id)[3:] == ["Suspended", "Resumed", "Suspended"]


def moment(**ahead: int) -> str:
    return rfc3339(utc_now() + timedelta(**ahead))


def test_activation_and_expiry_come_by_the_clock(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name, activationTime=moment(hours=1), expirationTime=moment(hours=2))
    until_equal(lambda: lab.ready(name), ("False", "NotYetActive"))
    assert lab.get("rootkey", name)["status"]["state"] == "PreActivation"
    lab.change(name, activationTime=moment(seconds=1))
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.change(name, expirationTime=moment(seconds=1))
    until_equal(lambda: lab.ready(name), ("False", "KeyDeactivated"))
    assert lab.actions(key_id)[3:] == ["Activated", "Deactivated"]


def test_one_key_id_one_root_key(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.root_key(f"{name}-2", keyID=key_id, origin="Adopted")
    until_equal(lambda: lab.ready(f"{name}-2"), ("False", "KeyIDInUse"))
    # Admitted or not, this one's deletion is none of the other's business.
    lab.delete(f"{name}-2")
    until(lambda: lab.is_gone("rootkey", f"{name}-2"))
    assert lab.on_token(key_id) == 1
    assert lab.ready(name) == ("True", "KeyActive")


def test_without_a_key_id_nothing_is_done(lab: Lab, name: str) -> None:
    lab.kubectl.create({"apiVersion": API_VERSION, "kind": "RootKey", "metadata": {"name": name}, "spec": {}})
    until_equal(lambda: lab.ready(name), ("False", "Pending"))
