"""Installed with no values, on a real node."""

import base64
import json
import time

import pytest

from tests.cluster import release
from tests.cluster.chart import CHART, NAMESPACE, helm
from tests.cluster.errors import ClusterError
from tests.cluster.keyshred import install_crds
from tests.cluster.node import Node, until
from tests.e2e.installed import CONTROLLER, WEBHOOK, Installed, condition
from tests.integration.controller.lab import until_equal
from tests.integration.system.tenant import Tenant, authorization, root_key

PASSWORD = "correct-horse-battery-staple"


def test_pods_run_and_names_are_resolved(node: Node) -> None:
    """The node itself, before keyshred comes."""
    ask = "nslookup kubernetes.default.svc.cluster.local && cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"
    node.kubectl.run("run", "probe", "--image=docker.io/library/busybox:1", "--restart=Never", "--", "-c", ask)
    node.kubectl.run("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/probe", "--timeout=180s")
    said = node.kubectl.run("logs", "probe").stdout
    assert "10.96.0.1" in said and said.endswith("default")


def test_from_an_installation_without_values_to_a_sealed_secret(node: Node, notes: str) -> None:
    """As NOTES.txt says; with a namespace that was there before, which has to settle first."""
    assert "EVALUATION MODE" in notes and "production" in notes
    kubectl, started = node.kubectl, time.monotonic()
    kubectl.run("create", "namespace", "first")
    kubectl.apply(root_key("first"), authorization("first", ["first"]))
    kubectl.run("wait", "--for=condition=Ready", "--timeout=180s", "rootkey/first", "keyauthorization/first")
    kubectl.run("create", "secret", "generic", "db", f"--from-literal=password={PASSWORD}", "--namespace=first")
    print(f"\nfrom the first kubectl to the first sealed Secret: {time.monotonic() - started:.1f} s")
    stored = node.etcd_raw("/registry/secrets/first/db")["/registry/secrets/first/db"]
    assert b"KSH1" in stored
    assert PASSWORD.encode() not in stored and base64.b64encode(PASSWORD.encode()) not in stored


def test_all_of_it_is_as_an_operator_expects(installed: Installed) -> None:
    assert len(installed.pods(WEBHOOK)) == 2 and len(installed.pods(CONTROLLER)) == 1
    for pod in installed.pods(WEBHOOK) + installed.pods(CONTROLLER):
        assert not [s for s in pod["status"]["containerStatuses"] if s["restartCount"]]
    key = installed.kubectl("get", "rootkey", "first")
    assert "software" in condition(key, "Ready")["message"]
    remembered = installed.kubectl("get", "configmap", "keyshred-token", f"--namespace={NAMESPACE}")["data"]
    assert remembered["mode"] == "evaluation" and remembered["storage"] == "node" and remembered["node"] == "node"
    assert set(installed.secret("keyshred-token-pins")) == {"pin", "so-pin"}


def test_a_workload_reads_its_secret_over_the_service(tenant: Tenant) -> None:
    tenant.create_secret("db", password=PASSWORD)
    assert tenant.unseal("db") == {"password": PASSWORD}
    assert tenant.ask("db", tenant.token("stranger"))[0] == 403


def test_helm_test(node: Node, installed: Installed) -> None:
    said = helm("test", release.RELEASE, f"--namespace={NAMESPACE}", "--logs", kubeconfig=node.kubeconfig)
    assert "its certificate holds, and its token answers" in said
    assert "the API server asks keyshred" in said


def test_a_refused_pod_is_told_by_an_event(tenant: Tenant) -> None:
    tenant.create_secret("mine", a="one")
    tenant.create_secret("other", a="two")
    patch = json.dumps({"spec": {"subjects": None}})
    tenant.kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", "-p", patch)
    tenant.create_pod("reader", "mine")
    token = tenant.token(pod="reader")
    until_equal(lambda: tenant.ask("mine", token)[0], 200)
    for _ in range(3):
        assert tenant.ask("other", token)[0] == 403

    def events() -> list[dict[str, object]]:
        selector = "--field-selector=involvedObject.name=reader,reason=UnsealRefused"
        found: list[dict[str, object]] = tenant.kubectl("get", "events", f"--namespace={tenant.name}", selector)[
            "items"
        ]
        return found

    until("an Event on the pod", lambda: len(events()) >= 1)
    # One a replica and worker at most, however often it asks.
    assert len(events()) <= 3
    assert "Secret other was not unsealed" in str(events()[0]["message"])


def test_what_is_served_to_prometheus(installed: Installed, tenant: Tenant) -> None:
    tenant.create_secret("db", a="one")
    tenant.unseal("db")
    webhook, controller = installed.numbers(WEBHOOK), installed.numbers(CONTROLLER)
    assert webhook["keyshred_workers"] == webhook["keyshred_workers_ready"] == 2
    assert webhook["keyshred_certificate_expiry_timestamp_seconds"] > time.time() + 80 * 86400
    assert controller["keyshred_leader"] == 1 and controller["keyshred_certificate_trusted"] == 1
    ready = f'keyshred_root_key_ready{{reason="KeyActive",root_key="{tenant.name}"}}'
    until("the key is counted", lambda: installed.numbers(CONTROLLER).get(ready) == 1)
    dependents = f'keyshred_root_key_dependents{{root_key="{tenant.name}"}}'
    until("its Secret is counted", lambda: installed.numbers(CONTROLLER).get(dependents) == 1)


def test_logs_are_json_and_audit_lines_tell_of_keys(installed: Installed, tenant: Tenant) -> None:
    said = installed.kubectl.run(
        "logs", "deployment/keyshred-controller", "--container=controller", f"--namespace={NAMESPACE}"
    ).stdout
    lines = [json.loads(line) for line in said.splitlines()]
    actions = [line["action"] for line in lines if line.get("audit") == "key" and line["keyID"] == tenant.key_id]
    assert actions[-3:] == ["GenerateStarted", "Generated", "Activated"]
    assert all(line["level"] in ("INFO", "WARNING", "ERROR") for line in lines if "level" in line)
    assert not [line for line in lines if line.get("level") == "ERROR" and line["logger"].startswith("keyshred.")]


def test_another_mode_by_accident_is_refused_and_nothing_changes(node: Node, installed: Installed) -> None:
    before = installed.kubectl("get", "deployment", "keyshred-controller", f"--namespace={NAMESPACE}")["spec"]
    production = {
        "mode": "production",
        "hsm": {"tokenURI": "pkcs11:token=p", "modulePath": "/m.so", "pins": {"use": {"secretName": "p"}}},
    }
    with pytest.raises(ClusterError, match=r"(?s)mode evaluation.*delete the ConfigMap keyshred/keyshred-token"):
        release.install(node, production)
    with pytest.raises(ClusterError, match=r'evaluation\.storage says "pvc"'):
        release.install(node, {"evaluation": {"storage": "pvc"}})
    assert installed.kubectl("get", "deployment", "keyshred-controller", f"--namespace={NAMESPACE}")["spec"] == before


def test_a_second_rendering_by_helm_changes_nothing(node: Node, installed: Installed) -> None:
    """By Helm with the cluster at hand, too: nothing is drawn anew, and no pod is replaced."""
    pods = {pod["metadata"]["uid"] for pod in installed.pods(WEBHOOK) + installed.pods(CONTROLLER)}
    pins, serving = installed.secret("keyshred-token-pins"), installed.secret("keyshred-webhook-tls")
    release.install(node)
    assert {pod["metadata"]["uid"] for pod in installed.pods(WEBHOOK) + installed.pods(CONTROLLER)} == pods
    assert installed.secret("keyshred-token-pins") == pins
    assert installed.secret("keyshred-webhook-tls") == serving
    bundles = {w["clientConfig"]["caBundle"] for w in _webhooks(installed)}
    assert bundles == {base64.b64encode(serving["ca.crt"]).decode()}


def _webhooks(installed: Installed) -> list[dict[str, dict[str, str]]]:
    found = [
        *installed.kubectl("get", "mutatingwebhookconfiguration", "keyshred")["webhooks"],
        *installed.kubectl("get", "validatingwebhookconfiguration", "keyshred")["webhooks"],
    ]
    return found


def test_a_bundle_that_somebody_took_out_comes_back(installed: Installed) -> None:
    operations = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    installed.kubectl.run(
        "patch", "mutatingwebhookconfiguration", "keyshred", "--type=json", "-p", json.dumps(operations)
    )
    until("the bundle is back", lambda: all("caBundle" in w["clientConfig"] for w in _webhooks(installed)))


def test_crds_of_the_repository_and_of_the_chart_are_the_same_to_the_api_server(installed: Installed) -> None:
    """Who applies crds/ by hand, and then installs the chart, gets no conflict."""
    install_crds(installed.kubectl)
    assert CHART.exists()
