"""A rolling update of the webhook under a stream of requests: none of them fails."""

import os
import signal
import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.balancer import Balancer
from tests.cluster.keyshred import Keyshred
from tests.cluster.processes import Process
from tests.integration.controller.lab import until
from tests.integration.system.stream import Stream
from tests.integration.system.tenant import Tenant


class Replicas:
    """Webhook processes behind one address that the API server calls."""

    def __init__(self, keyshred: Keyshred) -> None:
        self._keyshred = keyshred
        self._all: list[Keyshred] = []
        self.balancer = Balancer(lambda: {r.port: r.is_ready for r in self._all})

    @property
    def first(self) -> Keyshred:
        """The one that was started first."""
        return self._all[0]

    def start(self) -> None:
        """One more; returns when it is ready."""
        cluster = self._keyshred.cluster
        replica = Keyshred(cluster, self._keyshred.token, webhook_flags=["--drain-delay=8"])
        replica.webhook = Process(f"webhook-{len(self._all)}", cluster.directory)
        replica.start_webhook()
        self._all.append(replica)

    def stop(self) -> None:
        """All of them, at once."""
        for replica in self._all:
            replica.webhook.kill()


@pytest.fixture
def replicas(keyshred: Keyshred) -> Iterator[Replicas]:
    replicas = Replicas(keyshred)
    replicas.start()
    try:
        with replicas.balancer.running():
            keyshred.install_webhooks(replicas.balancer.port)
            yield replicas
    finally:
        keyshred.install_webhooks()
        replicas.stop()


def test_a_rolling_update_fails_no_request(tenant: Tenant, replicas: Replicas) -> None:
    first, pid = replicas.first, replicas.first.webhook.pid
    assert pid is not None
    replicas.start()
    # The session's own webhook is called until the API server knows the new address.
    while not replicas.balancer.connections:
        tenant.create_secret(f"s-{uuid.uuid4()}", a="one")
    with Stream(tenant, replicas.balancer.port).running() as stream:
        until(lambda: stream.rounds > 10)
        replicas.start()
        os.kill(pid, signal.SIGTERM)
        until(lambda: not first.is_ready())
        os.kill(pid, signal.SIGTERM)
        until(lambda: first.webhook.pid is None)
        served = stream.rounds
        until(lambda: stream.rounds > served + 10)
    assert stream.failures == []
    stream.check()
