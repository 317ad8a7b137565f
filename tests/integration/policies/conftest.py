"""keyshred installed once for the folder, its controller stopped: each test plays the controller's part itself."""

from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import Keyshred
from tests.cluster.softhsm import SoftHsm
from tests.integration.policies.asking import ROOT_KEY, Site
from tests.integration.system.tenant import root_key


@pytest.fixture(scope="package")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Webhook and policies, and one RootKey that is Active."""
    failed = request.session.testsfailed
    with ControlPlane.temporary("policies") as cluster:
        keyshred = Keyshred(cluster, SoftHsm.create(cluster.directory / "token"))
        keyshred.up()
        cluster.kubectl.apply(root_key(ROOT_KEY))
        cluster.kubectl.run("wait", "--for=condition=Ready", "--timeout=180s", f"rootkey/{ROOT_KEY}")
        keyshred.controller.stop()
        yield Site(keyshred)
        if request.session.testsfailed > failed:
            print(f"\nlogs: {cluster.save_logs()}")


@pytest.fixture(scope="class")
def without_webhooks(site: Site) -> Iterator[None]:
    """Nobody answers for keyshred."""
    site.keyshred.webhook.stop()
    yield
    site.keyshred.start_webhook()
