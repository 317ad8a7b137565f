"""One node, and one installation on it, for all of these tests. They run in the order of the files' names."""

import time
from collections.abc import Iterator

import pytest

from tests.cluster import image, release
from tests.cluster.node import Node
from tests.e2e.installed import Installed
from tests.integration.system.tenant import Tenant


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node without keyshred, but with its image."""
    image.ensure()
    failed = request.session.testsfailed
    with Node.temporary("e2e") as node:
        release.load(node)
        yield node
        if request.session.testsfailed > failed:
            print(f"\nlogs of the node: {node.save_logs()}")


@pytest.fixture(scope="session")
def notes(node: Node) -> str:
    """What Helm says after an installation without a single value."""
    started = time.monotonic()
    said = release.install(node)
    print(f"\nhelm install --wait took {time.monotonic() - started:.1f} s")
    return said


@pytest.fixture(scope="session")
def installed(node: Node, notes: str) -> Installed:
    """keyshred, installed."""
    return Installed(node)


@pytest.fixture
def tenant(installed: Installed) -> Tenant:
    """A fresh tenant, ready to seal."""
    return Tenant.create_with_key_first(installed)


@pytest.fixture
def clear(node: Node, tenant: Tenant) -> str:
    """A namespace where nothing is sealed."""
    name = f"{tenant.name}-clear"
    node.kubectl.run("create", "namespace", name)
    return name
