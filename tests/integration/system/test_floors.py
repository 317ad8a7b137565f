"""What an installation asks of every RootKey, at the webhook that its flags are for."""

from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import Keyshred
from tests.cluster.kubectl import Kubectl, as_list
from tests.cluster.softhsm import SoftHsm
from tests.integration.system.tenant import root_key

FLOORS = ("--least-grace-period=1h", "--require-protected=true")


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """Of an installation with floors."""
    with ControlPlane.temporary("floors") as cluster:
        installation = Keyshred(cluster, SoftHsm.create(cluster.directory / "token"))
        installation.up()
        # From before the floors.
        cluster.kubectl.apply(root_key("early"))
        cluster.kubectl.run("wait", "--for=condition=Ready", "rootkey/early", "--timeout=180s")
        installation.webhook.stop()
        installation.webhook_flags = FLOORS
        installation.start_webhook()
        yield cluster.kubectl


def _tried(kubectl: Kubectl, name: str, **destruction: object) -> str:
    manifest = as_list([root_key(name, destruction=destruction)])
    return kubectl.run("create", "-f", "-", input=manifest, check=False).stderr


def test_a_root_key_below_the_floors_is_refused_and_told_what_it_lacks(kubectl: Kubectl) -> None:
    refused = _tried(kubectl, "new", gracePeriod="59m")
    assert "RootKey new" in refused and "gracePeriod 1h0m0s or more (it is 59m)" in refused
    assert "protected: true" in refused and "destructionFloors" in refused
    assert _tried(kubectl, "new", gracePeriod="60m", protected=True) == ""


def test_one_from_before_is_suspended_in_a_hurry_and_not_destroyed(kubectl: Kubectl) -> None:
    patch = ("patch", "rootkey", "early", "--type=merge", "-p")
    kubectl.run(*patch, '{"spec":{"suspended":true}}')
    refused = kubectl.run("delete", "rootkey", "early", "--wait=false", check=False).stderr
    assert "this installation asks for" in refused
    assert "deletionTimestamp" not in kubectl("get", "rootkey", "early")["metadata"]
    kubectl.run(*patch, '{"spec":{"destruction":{"gracePeriod":"1h","protected":true}}}')
    lowered = kubectl.run(*patch, '{"spec":{"destruction":{"gracePeriod":"1m"}}}', check=False).stderr
    assert "gracePeriod 1h0m0s or more" in lowered
