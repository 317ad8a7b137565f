"""keyshred is away, and what that stops: what it protects, and nothing else."""

import json

from tests.cluster import image, release
from tests.cluster.chart import NAMESPACE
from tests.cluster.kubectl import as_list
from tests.cluster.node import Node, until
from tests.e2e.installed import CONTROLLER, WEBHOOK, Installed
from tests.integration.system.tenant import Tenant, secret


def _try(node: Node, *arguments: str, body: object = None) -> str:
    text = None if body is None else json.dumps(body)
    return node.kubectl.run(*arguments, input=text, check=False).stderr


def _stops_nothing_else(node: Node, name: str) -> None:
    """The cluster's own life, and that of a namespace that keyshred does not protect."""
    kubectl = node.kubectl
    kubectl.run("create", "namespace", name)
    kubectl.create(secret(name, "plain", {"a": "b"}))
    kubectl.run("patch", "secret", "plain", f"--namespace={name}", "-p", json.dumps({"stringData": {"a": "c"}}))
    kubectl.create(secret("kube-system", name, {"a": "b"}))
    kubectl.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"{name}-joins"}})
    kubectl.run("delete", "node", f"{name}-joins")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reads", "namespace": name},
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "image": "docker.io/library/busybox:1",
                    "args": ["-c", "cat /s/a && sleep 600"],
                    "volumeMounts": [{"name": "s", "mountPath": "/s"}],
                }
            ],
            "volumes": [{"name": "s", "secret": {"secretName": "plain"}}],
        },
    }
    until("the namespace's ServiceAccount", lambda: not _try(node, "get", "sa", "default", f"--namespace={name}"))
    kubectl.run("create", "-f", "-", input=as_list([pod]))
    kubectl.run("wait", "--for=condition=Ready", "pod/reads", f"--namespace={name}", "--timeout=180s")
    kubectl.run("delete", "namespace", name, "--timeout=180s")


def test_without_keyshred_everything_but_sealing_goes_on(node: Node, installed: Installed, tenant: Tenant) -> None:
    tenant.create_secret("db", a="one")
    for component in (WEBHOOK, CONTROLLER):
        node.kubectl.run("scale", f"deployment/keyshred-{component}", "--replicas=0", f"--namespace={NAMESPACE}")
    until("keyshred is gone", lambda: not installed.pods(WEBHOOK) + installed.pods(CONTROLLER))
    _stops_nothing_else(node, "bystander")
    refused = _try(node, "create", "-f", "-", body=secret(tenant.name, "new", {"a": "b"}))
    assert "failed calling webhook" in refused
    # What it protects can still be listed, labelled by nobody, and deleted.
    assert tenant.stored("db")["data"]
    node.kubectl.run("delete", "secret", "db", f"--namespace={tenant.name}")
    release.install(node)
    installed.wait_rolled_out()
    tenant.create_secret("new", a="b")


def test_a_power_cut(node: Node, installed: Installed, tenant: Tenant) -> None:
    """All at once, and the cluster comes back without keyshred first: its image is nowhere to be had."""
    tenant.create_secret("db", a="one")
    node._ctr("images", "remove", image.NAME)
    (node.directory / "loaded").unlink()
    node.cut_power()
    node.up()  # returns when the node is Ready and CoreDNS runs
    _stops_nothing_else(node, "after-the-cut")
    assert _try(node, "create", "-f", "-", body=secret(tenant.name, "new", {"a": "b"}))
    assert not [p for p in installed.pods(WEBHOOK) if p["status"].get("containerStatuses", [{}])[0].get("ready")]
    release.load(node)
    until("keyshred is back", lambda: "True" in _ready(installed))
    installed.wait_running(WEBHOOK, 2)
    installed.wait_running(CONTROLLER, 1)
    assert tenant.unseal("db") == {"a": "one"}
    tenant.create_secret("new", a="two")


def _ready(installed: Installed) -> str:
    path = '{.status.conditions[?(@.type=="Available")].status}'
    return installed.kubectl.run(
        "get", "deployment", "keyshred-webhook", f"--namespace={NAMESPACE}", f"--output=jsonpath={path}"
    ).stdout
