"""Where it is measured: one control plane, keyshred with two workers, the no-op webhook, tenants."""

import base64
import json
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import load
from tests.benchmarks.load import Side
from tests.cluster import accounts, ports
from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import Keyshred
from tests.cluster.processes import Process
from tests.cluster.softhsm import SoftHsm
from tests.integration.system.tenant import READER, Tenant

BARE: Final = "benchmark-bare"
"""A namespace of no webhook."""
NOOP: Final = "benchmark-noop"
"""A namespace of the no-op webhook."""
READ: Final = 10
"""Secrets that the pod refers to, and that are read."""

_VALUES: Final = {"username": b"database-user", "password": b"correct-horse-battery-staple-4711"}
_POD: Final = "reader"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass
class Stage:
    """The parts, and requests to them."""

    cluster: ControlPlane
    keyshred: Keyshred
    second: Keyshred
    """A second replica of the webhook; whoever needs it starts it."""
    tenant: Tenant

    def creates(self, name: str, namespace: str, prefix: str = "secret") -> Side:
        """Creates of the Secrets PREFIX-0, PREFIX-1, and so on."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{prefix}-{{n}}"},
            "data": {key: base64.b64encode(value).decode() for key, value in _VALUES.items()},
        }
        side = self._as_admin(name, "POST", f"/api/v1/namespaces/{namespace}/secrets", json.dumps(secret))
        return replace(side, want=201, headers={"Content-Type": "application/json"})

    def patches(self, name: str, namespace: str, prefix: str, secrets: int) -> Side:
        """Patches of an annotation of the first so many Secrets, each with another value; metadata is answered."""
        headers = {"Content-Type": "application/merge-patch+json", "Accept": _METADATA_ONLY}
        body = '{"metadata": {"annotations": {"benchmark": "{i}"}}}'
        side = self._as_admin(name, "PATCH", f"/api/v1/namespaces/{namespace}/secrets/{prefix}-{{n}}", body)
        return replace(side, headers=headers, modulo=secrets)

    def gets(self, name: str) -> Side:
        """Bare GETs of the tenant's Secrets, by a ServiceAccount that may."""
        token = accounts.token(self.cluster.kubectl, self.tenant.name, READER)
        return Side(
            name=name,
            method="GET",
            url=f"{self.cluster.url}/api/v1/namespaces/{self.tenant.name}/secrets/secret-{{n}}",
            want=200,
            ca=self.cluster.authority.certificate,
            headers={"Authorization": f"Bearer {token}"},
            modulo=READ,
        )

    def unseals(self, name: str, keyshred: Keyshred, tenant: Tenant, *, pod: bool = False) -> Side:
        """Unseal calls for the tenant's Secrets, with a token that is bound to the pod, or to none."""
        token = tenant.token(pod=_POD if pod else None)
        return Side(
            name=name,
            method="POST",
            url=f"{keyshred.url}/v1/namespaces/{tenant.name}/secrets/secret-{{n}}/unseal",
            want=200,
            ca=self.cluster.authority.certificate,
            headers={"Authorization": f"Bearer {token}"},
            modulo=READ,
            http2=False,  # the webhook speaks HTTP/1.1
        )

    def deletes_root_key(self, tenant: Tenant) -> Side:
        """The DELETE of the tenant's RootKey."""
        return self._as_admin("delete", "DELETE", f"/apis/keyshred.dev/v1alpha1/rootkeys/{tenant.name}", "")

    def _as_admin(self, name: str, method: str, path: str, body: str) -> Side:
        pair = self.cluster.authority.issue("admin", "test-admin", organizations=["system:masters"])
        return Side(
            name=name,
            method=method,
            url=f"{self.cluster.url}{path}",
            want=200,
            ca=self.cluster.authority.certificate,
            cert=pair.certificate,
            key=pair.key,
            body=body,
        )


@contextmanager
def raised() -> Iterator[Stage]:
    """Everything that is needed, started; stopped and removed in the end."""
    programs = load.build()
    with ControlPlane.temporary("benchmark") as cluster:
        keyshred = Keyshred(cluster, SoftHsm.create(cluster.directory / "token"))
        keyshred.up()
        second = Keyshred(cluster, keyshred.token)
        second.webhook = Process("webhook-second", cluster.directory)
        stage = Stage(cluster, keyshred, second, Tenant.create(keyshred))
        for namespace in (BARE, NOOP):
            cluster.kubectl.run("create", "namespace", namespace)
        load.send(stage.creates("read", stage.tenant.name), READ)
        _let_read(stage)
        _start_noop(stage, programs)
        yield stage


def _let_read(stage: Stage) -> None:
    """A pod that refers to the Secrets, and a ServiceAccount that may get them from the API server."""
    kubectl, namespace = stage.cluster.kubectl, stage.tenant.name
    spec = {
        "serviceAccountName": READER,
        "containers": [{"name": "main", "image": "none"}],
        "imagePullSecrets": [{"name": f"secret-{n}"} for n in range(READ)],
    }
    kubectl.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _POD, "namespace": namespace}, "spec": spec}
    )
    reader = f"--serviceaccount={namespace}:{READER}"
    kubectl.run("create", "role", "reader", "--verb=get", "--resource=secrets", f"--namespace={namespace}")
    kubectl.run("create", "rolebinding", "reader", "--role=reader", reader, f"--namespace={namespace}")


def _start_noop(stage: Stage, programs: Path) -> None:
    """Starts it with a patch of keyshred's size, and has the API server ask it about the Secrets of its namespace."""
    cluster, directory = stage.cluster, stage.cluster.directory
    patch = directory / "noop-patch.json"
    patch.write_text(json.dumps(_like_keyshred(stage.tenant.stored("secret-0")), separators=(",", ":")))
    serving = cluster.authority.issue("noop", "noop", hosts=["127.0.0.1"])
    address = f"127.0.0.1:{ports.free()}"
    noop = Process("noop", directory)
    files = [f"--tls-cert={serving.certificate}", f"--tls-key={serving.key}", f"--patch={patch}"]
    noop.start([str(programs / "noop"), f"--listen={address}", *files])
    noop.wait_until(lambda: _answers(f"https://{address}/readyz", stage.keyshred.tls()))
    webhook = {
        "name": "noop.benchmark.example",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {
            "url": f"https://{address}/admit",
            "caBundle": base64.b64encode(cluster.authority.certificate.read_bytes()).decode(),
        },
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NOOP}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"], "operations": ["CREATE"]}],
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    cluster.kubectl.apply(kind | {"metadata": {"name": "noop"}, "webhooks": [webhook]})


def _like_keyshred(stored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """keyshred's patch for such a Secret, under a name of the same length that is nobody's."""
    metadata = {
        kind: {name.replace("keyshred.dev", "noop.example"): value for name, value in stored["metadata"][kind].items()}
        for kind in ("labels", "annotations")
    }
    operations = [{"op": "add", "path": f"/metadata/{kind}", "value": value} for kind, value in metadata.items()]
    return [*operations, {"op": "add", "path": "/data", "value": stored["data"]}]


def _answers(url: str, tls: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, context=tls, timeout=5):
            return True
    except OSError:
        return False
