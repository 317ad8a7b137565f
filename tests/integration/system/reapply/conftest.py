"""One tenant for all of these tests, and what they deploy with."""

import uuid
from pathlib import Path

import pytest

from tests.cluster import build
from tests.cluster.keyshred import Keyshred
from tests.integration.system.reapply.clients import Client
from tests.integration.system.tenant import Tenant


@pytest.fixture(scope="session", autouse=True)
def _binaries() -> None:
    build.ensure(build.CLIENTS)


@pytest.fixture(scope="session")
def tenant(keyshred: Keyshred) -> Tenant:
    """One for all: each test has Secrets of its own."""
    return Tenant.create(keyshred)


@pytest.fixture
def name() -> str:
    """A Secret's name that no other test uses."""
    return f"app-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def client(request: pytest.FixtureRequest, tenant: Tenant, tmp_path: Path) -> Client:
    """The parameter, a class, for the tenant's namespace."""
    kind: type[Client] = request.param
    return kind(tenant.kubectl, tenant.name, tmp_path)
