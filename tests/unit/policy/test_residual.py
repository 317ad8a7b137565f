"""What running pods hold of a destroyed key, and what counts as cleared."""

from typing import Any
from uuid import UUID

import pytest

from keyshred.policy.residual import Cleared, Residual, cleared_by, has_files, said
from keyshred.policy.volumes import DRIVER, Content, Files, Source, Variable, Variables, attributes

KEY_ID = UUID("7f1d1c52-9a7c-4a4f-9d55-0a6a2b1f7d11")
OTHER = UUID("00000000-0000-4000-8000-000000000001")
DEPENDENTS = frozenset({"db", "app"})
RUNNING: dict[str, Any] = {"phase": "Running"}


def files(*secrets: str) -> Files:
    return Files(tuple(Source(s) for s in secrets))


def variables(*secrets: str) -> Variables:
    return Variables(tuple(Variable(s, "k") for s in secrets))


def pod(status: dict[str, Any] | None = None, **contents: Content) -> dict[str, Any]:
    volumes = [{"name": n, "csi": {"driver": DRIVER, "volumeAttributes": attributes(c)}} for n, c in contents.items()]
    volumes.append({"name": "strange", "csi": {"driver": DRIVER, "volumeAttributes": {}}})
    volumes.append({"name": "another", "csi": {"driver": "csi.other.dev", "volumeAttributes": attributes(files("db"))}})
    return {"metadata": {"uid": "u1"}, "spec": {"volumes": volumes}, "status": RUNNING if status is None else status}


def event(message: str, uid: str = "u1") -> dict[str, Any]:
    return {"involvedObject": {"uid": uid}, "message": message}


def counted(one: dict[str, Any], *cleared: Cleared) -> tuple[int, int, int]:
    """Pods with environment, volumes cleared, volumes not reached."""
    found = Residual()
    found.add(one, DEPENDENTS, frozenset(cleared))
    return found.environments, found.cleared, found.unreached


def test_an_event_is_read_as_it_was_said() -> None:
    secret, volume = "x." * 120 + "y", "v" * 63
    assert cleared_by(event(said(volume, secret, KEY_ID)), KEY_ID) == Cleared("u1", volume, secret)
    assert len(said("v" * 63, "x" * 253, KEY_ID)) <= 1024, "what an Event has room for"


@pytest.mark.parametrize(
    "strange",
    [
        event(said("v", "db", OTHER)),
        event(""),
        event(said("v", "db", KEY_ID) + " and more"),
        event("Secret db was not unsealed: " + said("v", "db", KEY_ID)),
        {"involvedObject": {}},
    ],
)
def test_an_event_that_says_nothing_of_this_key(strange: dict[str, Any]) -> None:
    assert cleared_by(strange, KEY_ID) is None


def test_which_volume_has_files_of_a_secret() -> None:
    one = pod(v=files("db", "app"), e=variables("db"))
    assert has_files(one, "v", "db") and has_files(one, "v", "app")
    assert not any(has_files(one, volume, "db") for volume in ("e", "strange", "another", "none"))
    assert not has_files(one, "v", "other")


def test_files_and_environments_are_counted_apart() -> None:
    one = pod(v=files("db"), w=files("app", "other"), e=variables("db"), f=variables("app"), n=files("other"))
    assert counted(one) == (1, 0, 2)
    assert counted(one, Cleared("u1", "v", "db")) == (1, 1, 1)
    assert counted(pod(n=files("other"), e=variables("other"))) == (0, 0, 0)


@pytest.mark.parametrize("cleared", [Cleared("u2", "v", "db"), Cleared("u1", "w", "db"), Cleared("u1", "v", "app")])
def test_only_this_pod_this_volume_and_this_secret_count(cleared: Cleared) -> None:
    assert counted(pod(v=files("db")), cleared) == (0, 0, 1)


def test_a_volume_is_cleared_when_all_secrets_of_the_key_are() -> None:
    one = pod(v=files("db", "app", "of-another-key"))
    first, second = Cleared("u1", "v", "db"), Cleared("u1", "v", "app")
    assert counted(one, first) == (0, 0, 1)
    assert counted(one, first, second) == (0, 1, 0)


@pytest.mark.parametrize(
    ("status", "counts"),
    [
        ({"phase": "Running"}, True),
        ({"phase": "Unknown"}, True),
        ({"phase": "Succeeded"}, False),
        ({"phase": "Failed"}, False),
        # Its volumes are not there, or nobody has looked into them.
        ({}, False),
        ({"phase": "Pending"}, False),
        ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {}}, "lastState": {}}]}, False),
        # The kubelet says Pending while a first container waits, or init containers run.
        ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {}}}, {"state": {"running": {}}}]}, True),
        ({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {}}}]}, True),
        ({"phase": "Pending", "initContainerStatuses": [{"state": {}, "lastState": {"terminated": {}}}]}, True),
        ({"phase": "Pending", "ephemeralContainerStatuses": [{"state": {"running": {}}}]}, True),
    ],
)
def test_pods_count_from_their_first_container_to_their_end(status: dict[str, Any], counts: bool) -> None:
    one = pod(status, v=files("db"), e=variables("db"))
    assert counted(one) == ((1, 0, 1) if counts else (0, 0, 0))


def test_many_pods_add_up() -> None:
    found = Residual()
    for _ in range(3):
        found.add(pod(v=files("db"), e=variables("app")), DEPENDENTS, frozenset())
    found.add(pod(v=files("db")), DEPENDENTS, frozenset({Cleared("u1", "v", "db")}))
    assert found.fields() == {"podsWithEnvironment": 3, "volumesCleared": 1, "volumesUnreached": 3}
    assert str(found) == (
        "volumes of running pods: cleared 1, not reached 3; pods that hold values in their environment: 3"
    )
