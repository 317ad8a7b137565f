"""The Pod Security Standard `restricted`, as the API server enforces it."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import chart
from tests.cluster.control_plane import ControlPlane
from tests.integration.chart.test_rendering import EVERYTHING, ON_A_VOLUME, ON_THE_NODE, PRODUCTION

Json = dict[str, Any]


def _pods(values: Json) -> Iterator[Json]:
    """All pods that the chart makes, by whatever makes them."""
    for made in chart.render(values):
        template = made if made["kind"] == "Pod" else made.get("spec", {}).get("template")
        if isinstance(template, dict) and "containers" in template.get("spec", {}):
            spec = copy.deepcopy(template["spec"])
            # Not there here; and what Pod Security judges is the rest.
            spec.pop("serviceAccountName")
            spec.pop("priorityClassName", None)
            metadata = {"name": made["metadata"]["name"], "namespace": "restricted"}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module", autouse=True)
def restricted(cluster: ControlPlane) -> None:
    metadata = {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    cluster.kubectl.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "restricted"}}
    )


def _refusal(cluster: ControlPlane, pod: Json) -> str:
    return cluster.kubectl.run("create", "--dry-run=server", "-f", "-", input=json.dumps(pod), check=False).stderr


@pytest.mark.parametrize("values", [ON_A_VOLUME, PRODUCTION], ids=["on a volume", "production"])
def test_all_pods_are_let_in(cluster: ControlPlane, values: Json) -> None:
    refused = {pod["metadata"]["name"]: _refusal(cluster, pod) for pod in _pods(values)}
    # It mounts what other pods see, and can have a namespace of its own (node.namespace).
    assert "privileged" in refused.pop("keyshred-node")
    assert refused.keys() == {"keyshred-webhook", "keyshred-controller", "keyshred-test", "keyshred-uninstall-notice"}
    assert set(refused.values()) == {""}


def test_a_token_on_the_node_costs_that_one_volume(cluster: ControlPlane) -> None:
    for pod in _pods(ON_THE_NODE):
        if pod["metadata"]["name"] not in ("keyshred-webhook", "keyshred-controller"):
            continue
        assert 'restricted volume types (volume "token" uses restricted volume type "hostPath")' in _refusal(
            cluster, pod
        )
        spec = pod["spec"]
        spec["initContainers"] = [c for c in spec["initContainers"] if c["name"] != "token-folder"]
        spec["volumes"] = [v if v["name"] != "token" else {"name": "token", "emptyDir": {}} for v in spec["volumes"]]
        assert _refusal(cluster, pod) == "", "the rest is as it should be"


def test_the_host_network_is_asked_for(cluster: ControlPlane) -> None:
    refused = {p["metadata"]["name"]: _refusal(cluster, p) for p in _pods(EVERYTHING)}
    assert "host namespaces (hostNetwork=true)" in refused.pop("keyshred-webhook")
    assert "privileged" in refused.pop("keyshred-node")
    assert set(refused.values()) == {""}
