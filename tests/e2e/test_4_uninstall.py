"""Uninstalled, and installed again."""

from tests.cluster import release
from tests.cluster.chart import NAMESPACE
from tests.cluster.node import Node, until
from tests.e2e import pods
from tests.e2e.installed import NODE, Installed
from tests.integration.system.tenant import READER, Tenant


def test_uninstalled_it_keeps_all_keys_and_installed_again_it_finds_them(
    node: Node, installed: Installed, tenant: Tenant
) -> None:
    tenant.create_secret("db", a="one")
    node.kubectl.create(pods.mounting(tenant.name, "consumer", "db", serviceAccountName=READER))
    pods.wait_running(node.kubectl, tenant.name, "consumer")
    key_id, pins = tenant.key_id, installed.secret("keyshred-token-pins")
    kubectl = node.kubectl
    dependents = "{.status.dependents.secrets}"
    until(
        "its Secret is counted",
        lambda: kubectl.run("get", "rootkey", tenant.name, f"-o=jsonpath={dependents}").stdout == "1",
    )

    said = release.uninstall(node)

    assert f"RootKey {tenant.name}: sealed Secrets: 1" in said and "spec.mode: Release" in said
    assert "[CustomResourceDefinition] rootkeys.keyshred.dev" in said
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies"):
        assert "keyshred" not in kubectl.run("get", kind, "--output=name").stdout
    # What `helm test` left is there for its log; the driver, lest pods with its volumes hang in Terminating.
    everything = ("get", "all", f"--namespace={NAMESPACE}", "--output=name")
    driver = {"daemonset.apps/keyshred-node", *(f"pod/{p['metadata']['name']}" for p in installed.pods(NODE))}
    assert len(driver) == 2
    until("other pods are gone", lambda: set(kubectl.run(*everything).stdout.split()) - {"pod/keyshred-test"} == driver)
    kubectl.run("delete", "pod", "consumer", f"--namespace={tenant.name}", "--timeout=180s")
    assert kubectl("get", "rootkey", tenant.name)["spec"]["keyID"] == key_id
    assert tenant.record(key_id)["state"] == "Active"
    assert b"KSH1" in tenant.in_etcd("db")
    assert installed.secret("keyshred-token-pins") == pins

    release.install(node)

    tenant.wait_ready()
    assert tenant.key_id == key_id
    assert tenant.unseal("db") == {"a": "one"}
    tenant.create_secret("new", a="two")
    assert tenant.unseal("new") == {"a": "two"}
    key_id = tenant.delete_key()
    assert tenant.record(key_id)["state"] == "Destroyed"
    assert tenant.ask("db")[0] == 410
