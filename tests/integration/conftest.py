"""Fixtures of tests against a real API server."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import history
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl

_LOGS = pytest.StashKey[Path]()


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """One control plane for all tests of the session. Its logs are kept where a test failed."""
    with ControlPlane.temporary("tests", apiserver_flags=history.KEEP_ALL) as cluster:
        yield cluster
        if request.session.testsfailed:
            request.config.stash[_LOGS] = cluster.save_logs()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says where the cluster's logs are."""
    if _LOGS in config.stash:
        terminalreporter.write_line(f"logs of the cluster: {config.stash[_LOGS]}")


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl as cluster admin: `kubectl("get", "ns")` is parsed JSON, `kubectl.run(...)` the completed process."""
    return control_plane.kubectl


@pytest.fixture
def namespace(kubectl: Kubectl) -> str:
    """A fresh namespace. It stays, since without a controller-manager a deleted one would be Terminating for ever."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    kubectl.run("create", "namespace", name)
    return name
