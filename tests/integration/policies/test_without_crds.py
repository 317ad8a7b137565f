"""What the policies do where keyshred's CRDs are not there: the rest of the cluster goes on."""

from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import manifests
from tests.cluster.kubectl import Kubectl
from tests.integration.policies.asking import LABEL, answer, namespace, secret, until


@pytest.fixture
def bare() -> Iterator[Kubectl]:
    """An API server with the policies, and nothing else of keyshred."""
    with ControlPlane.temporary("policies") as cluster:
        cluster.kubectl.apply(*manifests("policies.yaml"))
        yield cluster.kubectl


def test_a_missing_crd_closes_covered_namespaces_and_no_others(bare: Kubectl) -> None:
    bare.create(namespace("covered", {LABEL: "enabled"}), namespace("free"))
    until(lambda: "failed to find resource" in answer(bare, "create", secret("covered")), 60)
    assert not answer(bare, "create", secret("free"))
    assert not answer(bare, "create", namespace("another"))
