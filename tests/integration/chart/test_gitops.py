"""The chart's rendering, deployed by what GitOps deploys with: again and again, beside what the controller writes."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import build, chart
from tests.cluster.chart import NAMESPACE
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.integration.system.reapply import clients
from tests.integration.system.reapply.clients import Client

Json = dict[str, Any]
BUNDLE = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()


@pytest.fixture
def kubectl() -> Iterator[Kubectl]:
    """Of a cluster without keyshred."""
    build.ensure(build.CLIENTS)
    with ControlPlane.temporary("gitops") as cluster:
        cluster.kubectl.run("create", "namespace", NAMESPACE)
        yield cluster.kubectl


def _deployed() -> list[Json]:
    """What a tool applies; hooks are its own affair. CRDs first, as all of them do."""
    objects = [o for o in chart.render({}) if "helm.sh/hook" not in o["metadata"].get("annotations", {})]
    return sorted(objects, key=lambda o: o["kind"] != "CustomResourceDefinition")


def _versions(kubectl: Kubectl, objects: list[Json]) -> dict[str, str]:
    found = {}
    for obj in objects:
        scope = [f"--namespace={obj['metadata']['namespace']}"] if "namespace" in obj["metadata"] else []
        live = kubectl("get", obj["kind"], obj["metadata"]["name"], *scope)
        if "generation" not in live["metadata"] or obj["kind"] in ("Deployment", "CustomResourceDefinition"):
            continue  # what others write statuses on
        found[f"{obj['kind']}/{obj['metadata']['name']}"] = live["metadata"]["generation"]
    return found


class ArgoCD(clients.ArgoCD):
    """For a chart, which has more than Secrets, in more than one namespace."""

    scope = ("--everything",)


class ArgoCDByServerSideApply(ArgoCD):
    """As docs/install.md asks for."""

    sync = ("--server-side-apply",)


@pytest.mark.parametrize("kind", [clients.ServerSideApply, ArgoCD, ArgoCDByServerSideApply, clients.Flux])
def test_applied_twice_it_changes_nothing_and_leaves_the_bundle(
    kubectl: Kubectl, kind: type[Client], tmp_path: Path
) -> None:
    client, objects = kind(kubectl, NAMESPACE, tmp_path), _deployed()
    client.apply(*objects)
    patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": BUNDLE}]
    name = "mutatingwebhookconfiguration/keyshred"
    kubectl.run("patch", name, "--type=json", "-p", json.dumps(patch), "--field-manager=keyshred")
    before = _versions(kubectl, objects)
    assert before
    client.apply(*_deployed())
    assert _versions(kubectl, objects) == before
    assert (
        kubectl("get", "mutatingwebhookconfiguration", "keyshred")["webhooks"][0]["clientConfig"]["caBundle"] == BUNDLE
    )
    assert client.in_sync(*objects) in (True, None)
