"""A real API server with the chart's CRDs, and those of others whose resources the chart can make."""

from collections.abc import Iterator

import pytest

from tests.cluster import foreign_crds
from tests.cluster.chart import NAMESPACE
from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import install_crds


@pytest.fixture(scope="package")
def cluster() -> Iterator[ControlPlane]:
    """Nothing of keyshred runs here."""
    with ControlPlane.temporary("chart") as cluster:
        install_crds(cluster.kubectl)
        foreign_crds.install(cluster.kubectl, foreign_crds.CERT_MANAGER)
        foreign_crds.install(cluster.kubectl, foreign_crds.PROMETHEUS_OPERATOR)
        cluster.kubectl.run("create", "namespace", NAMESPACE)
        # A pod that is made as a dry run wants its own to be there.
        cluster.kubectl.run("create", "serviceaccount", "keyshred-test", f"--namespace={NAMESPACE}")
        yield cluster
