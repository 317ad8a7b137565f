"""One lab for all tests of the controller; it is another cluster than the session's, whose CRDs must not go."""

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.lab import Lab


@pytest.fixture(scope="package")
def running(request: pytest.FixtureRequest) -> Iterator[Lab]:
    failed = request.session.testsfailed
    with ControlPlane.temporary("controller") as cluster:
        yield Lab(cluster)
        if request.session.testsfailed > failed:
            print(f"logs: {cluster.save_logs()}")


@pytest.fixture
def lab(running: Lab) -> Lab:
    """With the controller at work."""
    running.ensure_started()
    return running


@pytest.fixture
def name() -> str:
    return f"key-{uuid.uuid4().hex[:8]}"
