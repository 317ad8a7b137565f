"""Grace and protection as a user meets them, and an installation that is taken away."""

import json

from tests.cluster.keyshred import Keyshred, manifests
from tests.integration.system.tenant import Tenant, root_key

PASSWORD = "correct-horse-battery-staple"  # a plaintext to come back to


def test_a_key_in_its_grace_period_opens_nothing_until_it_is_restored(tenant: Tenant) -> None:
    tenant.create_secret("database", password=PASSWORD)
    token, key_id = tenant.token(), tenant.key_id
    _guard(tenant, gracePeriod="1h")
    _wait(tenant, f"keyrecord/{key_id}", "{.status.guards.gracePeriod}=1h")
    told = tenant.kubectl.run("delete", "rootkey", tenant.name, "--timeout=180s")
    assert "after the grace period of 1:00:00 for ever" in told.stderr
    record = tenant.record(key_id)
    assert record["state"] == "PendingDestruction" and record["destruction"]["requestedBy"] == "test-admin"
    _until_refused(tenant, token)
    tenant.kubectl.apply(root_key(tenant.name, origin="Adopted", keyID=key_id))
    tenant.wait_ready()
    assert tenant.unseal("database", token) == {"password": PASSWORD}
    assert "Restored" in [t["action"] for t in tenant.record(key_id)["transitions"]]


def _until_refused(tenant: Tenant, token: str) -> None:
    def pending() -> bool:
        status, body = tenant.ask("database", token)
        assert status == 403, body
        return "PendingDestruction" in body["detail"]

    # From the KeyRecord alone: the RootKey is gone.
    tenant.keyshred.webhook.wait_until(pending)


def test_a_protected_key_stays_while_secrets_depend_on_it(tenant: Tenant) -> None:
    _guard(tenant, protected=True)
    key_id = tenant.key_id
    tenant.create_secret("database", password=PASSWORD)
    _wait(tenant, f"rootkey/{tenant.name}", "{.status.dependents.secrets}=1")
    for weaker in (
        ("delete", "rootkey", tenant.name, "--wait=false"),
        ("delete", "rootkey", tenant.name, "--dry-run=server"),
        ("patch", "rootkey", tenant.name, "--type=merge", '-p={"spec":{"destruction":{"protected":false}}}'),
        ("patch", "rootkey", tenant.name, "--type=json", '-p=[{"op":"remove","path":"/spec/destruction"}]'),
    ):
        refused = tenant.kubectl.run(*weaker, check=False)
        assert refused.returncode != 0, weaker
        assert "is protected (spec.destruction.protected) and 1 sealed Secrets depend on it" in refused.stderr
    assert tenant.unseal("database") == {"password": PASSWORD}
    assert "DeleteAdmitted" not in [t["action"] for t in tenant.record(key_id)["transitions"]]
    tenant.kubectl.run("delete", "secret", "database", "-n", tenant.name)
    _wait(tenant, f"rootkey/{tenant.name}", "{.status.dependents.secrets}=0")
    tenant.delete_key()
    assert tenant.record(key_id)["state"] == "Destroyed"


def test_a_deletion_of_many_at_once_is_admitted_key_by_key(tenant: Tenant, other: Tenant) -> None:
    """DELETE on the collection: admission gets no name, and the object all the same."""
    _guard(other, protected=True)
    for one in (tenant, other):
        one.create_secret("database", password=PASSWORD)
        one.kubectl.run("label", "rootkey", one.name, f"many={tenant.name}")
    _wait(other, f"rootkey/{other.name}", "{.status.dependents.secrets}=1")
    key_id = tenant.key_id
    selected = f"/apis/keyshred.dev/v1alpha1/rootkeys?labelSelector=many%3D{tenant.name}"
    refused = tenant.kubectl.run("delete", "--raw", selected, check=False)
    assert refused.returncode != 0 and "is protected" in refused.stderr
    tenant.kubectl.run("delete", "rootkey", tenant.name, "--ignore-not-found", "--timeout=180s")
    assert tenant.record(key_id)["state"] == "Destroyed"
    assert tenant.record(key_id)["evidence"]["requestedBy"] == "test-admin"
    assert other.unseal("database") == {"password": PASSWORD}


def _guard(tenant: Tenant, **destruction: object) -> None:
    patch = json.dumps({"spec": {"destruction": destruction}})
    tenant.kubectl.run("patch", "rootkey", tenant.name, "--type=merge", "-p", patch)


def _wait(tenant: Tenant, what: str, jsonpath: str) -> None:
    tenant.kubectl.run("wait", f"--for=jsonpath={jsonpath}", what, "--timeout=180s")


def test_an_installation_that_is_taken_away_takes_no_key_along(own: Keyshred) -> None:
    """Webhook configurations, policies, accounts and namespace, then the RootKeys and their CRD."""
    tenant = Tenant.create(own)
    tenant.create_secret("database", password=PASSWORD)
    key_id, kubectl = tenant.key_id, tenant.kubectl
    kubectl.run("delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "keyshred")
    kubectl.run("delete", "validatingadmissionpolicybinding", "--all")
    own.webhook.wait_until(own.may_delete_crds)
    kubectl.run("delete", "serviceaccounts", "--all", "--namespace=keyshred")
    kubectl.run("delete", "namespace", "keyshred", "--wait=false")
    kubectl.run("delete", "rootkey", tenant.name, "--wait=false")
    kubectl.run("delete", "crd", "rootkeys.keyshred.dev", "--wait=false")
    own.down()
    # No namespace controller runs here.
    gone = kubectl("get", "namespace", "keyshred") | {"spec": {}}
    kubectl.run("replace", "--raw", "/api/v1/namespaces/keyshred/finalize", "-f", "-", input=json.dumps(gone))
    kubectl.apply(*manifests("rbac.yaml"))
    own.start_controller()
    kubectl.run("wait", "--for=delete", "crd/rootkeys.keyshred.dev", "--timeout=180s")
    assert tenant.record(key_id)["transitions"][-1]["action"] == "Kept"
    own.up()
    adopted = json.dumps(root_key(tenant.name, origin="Adopted", keyID=key_id))
    own.webhook.wait_until(lambda: kubectl.run("create", "-f", "-", input=adopted, check=False).returncode == 0)
    tenant.wait_ready()
    assert tenant.unseal("database") == {"password": PASSWORD}
