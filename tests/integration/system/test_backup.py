"""A backup of the cluster's objects, restored as Velero does it: kind by kind, and stripped as it strips them."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import Keyshred, install_crds
from tests.cluster.kubectl import Kubectl, as_list
from tests.cluster.softhsm import SoftHsm
from tests.integration.controller.lab import until
from tests.integration.system.tenant import Tenant

Json = dict[str, Any]

ORDER: Final = (
    "namespaces",
    "secrets",
    "serviceaccounts",
    # Not in Velero's list of priorities, so by their names, after all that is.
    "keyauthorizations.keyshred.dev",
    "keyrecords.keyshred.dev",
    "rolebindings.rbac.authorization.k8s.io",
    "rootkeys.keyshred.dev",
)
"""Of `--restore-resource-priorities`, with what else there is here. CRDs come before them."""
STATUS_OF: Final = "keyrecords.keyshred.dev"
"""`--status-include-resources`: the status is the record. Of all others Velero drops it."""
DROPPED: Final = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")


def _backup(kubectl: Kubectl, namespace: str) -> dict[str, list[Json]]:
    """What `velero backup create` keeps of a tenant and of keyshred's own resources."""
    found = {}
    for resource in ORDER:
        namespaced = resource in ("secrets", "serviceaccounts", "rolebindings.rbac.authorization.k8s.io")
        scope = [f"--namespace={namespace}"] if namespaced else [namespace] if resource == "namespaces" else []
        asked = kubectl("get", resource, *scope)
        objects = asked["items"] if asked["kind"].endswith("List") else [asked]
        found[resource] = [_stripped(obj, resource) for obj in objects]
    return found


def _stripped(obj: Json, resource: str) -> Json:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in DROPPED}
    kept = {key: value for key, value in obj.items() if key != "status" or resource == STATUS_OF}
    return kept | {"metadata": metadata}


def _restore(kubectl: Kubectl, backup: dict[str, list[Json]]) -> None:
    for resource in ORDER:
        for obj in backup[resource]:
            if resource.startswith("rootkeys"):
                # The resource modifier of docs/backup.md.
                obj = obj | {"spec": obj["spec"] | {"origin": "Adopted"}}
            kubectl.run("create", "-f", "-", input=as_list([obj]))
            if "status" in obj:
                name = obj["metadata"]["name"]
                patch = json.dumps({"status": obj["status"]})
                kubectl.run("patch", resource, name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture
def lost(request: pytest.FixtureRequest) -> Iterator[Keyshred]:
    """A cluster with keyshred, which is about to be lost; its token is not."""
    with ControlPlane.temporary("lost") as cluster:
        installation = Keyshred(cluster, SoftHsm.create(cluster.directory / "token"))
        installation.up()
        yield installation
        if request.session.testsfailed:
            print(f"\nlogs: {cluster.save_logs()}")


def test_a_new_cluster_with_the_old_token_opens_what_was_restored(lost: Keyshred) -> None:
    """CRDs and objects first, keyshred after them, as docs/backup.md says."""
    tenant = Tenant.create(lost)
    tenant.create_secret("db", password="still-there-afterwards")
    backup = _backup(lost.cluster.kubectl, tenant.name)
    assert backup["namespaces"][0]["metadata"]["labels"]["keyshred.dev/sealing"] == "enabled"
    lost.down()
    with ControlPlane.temporary("new") as cluster:
        install_crds(cluster.kubectl)
        _restore(cluster.kubectl, backup)
        found = Keyshred(cluster, lost.token)
        found.up()
        again = Tenant(found, tenant.name)
        again.wait_ready()
        assert again.unseal("db") == {"password": "still-there-afterwards"}
        again.create_secret("new", a="sealed-in-the-new-cluster")
        assert again.unseal("new") == {"a": "sealed-in-the-new-cluster"}
        assert again.record(again.key_id)["transitions"][-1]["action"] in ("Adopted", "Activated")


def test_a_namespace_that_was_deleted_comes_back_while_keyshred_runs(own: Keyshred) -> None:
    """Namespace and Secrets alone; RootKey, KeyAuthorization and KeyRecord were never away."""
    tenant = Tenant.create(own)
    tenant.create_secret("db", password="still-there-afterwards")
    backup = _backup(own.cluster.kubectl, tenant.name)
    kubectl = own.cluster.kubectl
    # No namespace controller runs here.
    kubectl.run("delete", "secrets,serviceaccounts,rolebindings", "--all", f"--namespace={tenant.name}")
    kubectl.run("delete", "namespace", tenant.name, "--wait=false")
    gone = kubectl("get", "namespace", tenant.name) | {"spec": {}}
    kubectl.run("replace", "--raw", f"/api/v1/namespaces/{tenant.name}/finalize", "-f", "-", input=json.dumps(gone))
    until(lambda: kubectl.run("get", "namespace", tenant.name, check=False).returncode != 0)
    kept = ("namespaces", "secrets", "serviceaccounts")
    _restore(kubectl, {resource: backup[resource] if resource in kept else [] for resource in ORDER})
    until(lambda: tenant.ask("db")[0] == 200)
    assert tenant.unseal("db") == {"password": "still-there-afterwards"}
