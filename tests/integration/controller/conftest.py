"""One lab for all tests of the controller; it is another cluster than the session's, whose CRDs must not go."""

import uuid
from collections.abc import Generator, Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import Process
from tests.integration.controller.lab import Lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a failure what the controllers said last: it may not happen a second time."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("running")
    if report.failed and isinstance(lab, Lab):
        for log in sorted(lab.cluster.directory.glob("controller*.log")):
            report.sections.append((log.name, Process(log.stem, log.parent).tail()))
    return report


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
