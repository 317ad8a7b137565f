"""With a default StorageClass the evaluation token is on a PersistentVolumeClaim, and all pods are `restricted`."""

import shutil

from keyshred.hsm import softhsm_setup
from tests.cluster import release
from tests.cluster.chart import NAMESPACE
from tests.cluster.node import NAME, Node
from tests.e2e import pods
from tests.e2e.installed import Installed
from tests.integration.system.tenant import READER, Tenant


def test_a_cluster_with_a_default_storage_class(node: Node, installed: Installed) -> None:
    kubectl = node.kubectl
    release.uninstall(node)
    kubectl.run("delete", "rootkeys,keyauthorizations", "--all", "--wait=false")
    # The cluster forgets the token that it had, as docs/install.md says.
    kubectl.run("delete", "namespace", NAMESPACE, "--timeout=180s")
    folder = node.directory / "volume"
    folder.mkdir()
    # As if another cluster had been here: its token is nobody's now.
    softhsm_setup.make(folder / "tokens", "keyshred", "pin-of-another", "so-pin-of-another")
    other = next((folder / "tokens").iterdir()).name
    shutil.chown(folder, 65532, 65532)
    for path in folder.rglob("*"):
        shutil.chown(path, 65532, 65532)
    kubectl.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "local"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local",
                "local": {"path": str(folder)},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
                                ]
                            }
                        ]
                    }
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
    )

    apart = {"node": {"namespace": "keyshred-node"}}
    said = release.install(node, apart)

    assert "PersistentVolumeClaim keyshred-token" in said
    remembered = kubectl("get", "configmap", "keyshred-token", f"--namespace={NAMESPACE}")["data"]
    assert remembered["storage"] == "pvc" and "node" not in remembered
    assert [t.name for t in (folder / "tokens").iterdir()] != [other], "a token of its own is on the volume"
    assert [t.name for t in (folder / "tokens.before-1").iterdir()] == [other]
    tenant = Tenant.create_with_key_first(installed)
    tenant.create_secret("db", a="one")
    assert tenant.unseal("db") == {"a": "one"}

    # Uninstalled, the volume stays; installed again, the key is found on it.
    release.uninstall(node)
    assert kubectl("get", "pvc", "keyshred-token", f"--namespace={NAMESPACE}")["status"]["phase"] == "Bound"
    release.install(node, apart)
    assert tenant.unseal("db") == {"a": "one"}
    kubectl.create(pods.mounting(tenant.name, "consumer", "db", serviceAccountName=READER))
    pods.wait_running(kubectl, tenant.name, "consumer")
