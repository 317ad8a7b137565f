"""The API server and etcd restart under a stream of requests; keyshred's processes do not."""

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import Keyshred
from tests.integration.controller.lab import until
from tests.integration.system.stream import Stream
from tests.integration.system.tenant import Tenant


@pytest.fixture
def patient(keyshred: Keyshred) -> Iterator[Keyshred]:
    """With a Lease that outlasts the restart of an API server on a slow machine."""
    flags = keyshred.controller_flags
    for changed in ((*flags, "--lease-duration=120"), flags):
        keyshred.controller.stop()
        keyshred.controller_flags = changed
        keyshred.start_controller()
        if changed != flags:
            yield keyshred


def _restart_apiserver(cluster: ControlPlane) -> None:
    cluster.stop_apiserver()
    cluster.start_apiserver()


def _kill_apiserver(cluster: ControlPlane) -> None:
    cluster.apiserver.kill()
    cluster.start_apiserver()


def _restart_etcd(cluster: ControlPlane) -> None:
    cluster.stop_etcd()
    cluster.start_etcd()


def _kill_etcd(cluster: ControlPlane) -> None:
    cluster.etcd.kill()
    cluster.start_etcd()


def test_nothing_is_lost_and_nothing_stored_in_plaintext(patient: Keyshred) -> None:
    tenant = Tenant.create(patient)
    pids = {patient.webhook.pid, patient.controller.pid, *patient.workers()}
    restarts: list[Callable[[ControlPlane], None]] = [_restart_apiserver, _kill_apiserver, _restart_etcd, _kill_etcd]
    with Stream(tenant, patient.port).running() as stream:
        for restart in restarts:
            before = stream.rounds
            until(lambda: stream.rounds > before + 5)  # noqa: B023
            restart(patient.cluster)
        before = stream.rounds
        until(lambda: stream.rounds > before + 5)
    assert stream.failures, "it went on while nobody was there"
    stream.check()
    # The policies and the controller too.
    tenant.wait_policies()
    Tenant.create(patient).create_secret("app", a="one")
    assert {patient.webhook.pid, patient.controller.pid, *patient.workers()} == pids
