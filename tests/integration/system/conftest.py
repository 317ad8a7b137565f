"""keyshred on a control plane of its own: other tests restart theirs."""

from collections.abc import Iterator

import pytest

from tests.cluster import history
from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import Keyshred
from tests.cluster.softhsm import SoftHsm
from tests.integration.system.plaintext import PLAINTEXT
from tests.integration.system.tenant import Tenant

REPEAT_SEARCH_AFTER = 2


@pytest.fixture(scope="session")
def keyshred(request: pytest.FixtureRequest) -> Iterator[Keyshred]:
    """One installation for all tests: two webhook workers, a controller, a SoftHSM token."""
    with ControlPlane.temporary("keyshred", apiserver_flags=history.KEEP_ALL) as cluster:
        token = SoftHsm.create(cluster.directory / "token")
        flags = [f"--repeat-search-after={REPEAT_SEARCH_AFTER}"]
        installation = Keyshred(cluster, token, controller_flags=flags)
        installation.up()
        yield installation
        if request.session.testsfailed:
            print(f"\nlogs of keyshred and its cluster: {cluster.save_logs()}")
            print("the controller's last lines:", *installation.controller.log.read_text().splitlines()[-80:], sep="\n")
        # Each revision since the start, whatever a later one made good.
        assert PLAINTEXT.check(cluster) > 0


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Keyshred]:
    """An installation for one test, which takes its CRDs or all of it away."""
    with ControlPlane.temporary("own") as cluster:
        installation = Keyshred(cluster, SoftHsm.create(cluster.directory / "token"))
        installation.up()
        failed = request.session.testsfailed
        yield installation
        if request.session.testsfailed > failed:
            print(f"\nlogs: {cluster.save_logs()}")


@pytest.fixture
def tenant(keyshred: Keyshred) -> Tenant:
    """A fresh tenant, ready to seal."""
    return Tenant.create(keyshred)


@pytest.fixture
def other(keyshred: Keyshred) -> Tenant:
    """A second tenant."""
    return Tenant.create(keyshred)
