"""One tenant of a test: a namespace, its RootKey and KeyAuthorization, and who may read there."""

import base64
import json
import uuid
from collections.abc import Mapping
from typing import Any, Final, Self

from tests.cluster import accounts
from tests.cluster.errors import ClusterError
from tests.cluster.keyshred import Keyshred
from tests.cluster.kubectl import Kubectl
from tests.integration.system.plaintext import PLAINTEXT

AUDIENCE: Final = "keyshred.dev"
READER: Final = "app"
"""May unseal without being bound to a pod."""
STRANGER: Final = "stranger"

Object = Mapping[str, Any]


def root_key(name: str, **spec: Any) -> dict[str, Any]:
    """A RootKey's manifest."""
    return {"apiVersion": "keyshred.dev/v1alpha1", "kind": "RootKey", "metadata": {"name": name}, "spec": spec}


def authorization(name: str, namespaces: list[str], **spec: Any) -> dict[str, Any]:
    """A KeyAuthorization's manifest, for the RootKey of the same name where none is given."""
    return {
        "apiVersion": "keyshred.dev/v1alpha1",
        "kind": "KeyAuthorization",
        "metadata": {"name": name},
        "spec": {"rootKeyRef": {"name": name}, "namespaces": {"names": namespaces}} | spec,
    }


def secret(namespace: str, name: str, values: Mapping[str, str], **fields: Any) -> dict[str, Any]:
    """A Secret's manifest with plaintext values."""
    metadata = {"name": name, "namespace": namespace} | fields.pop("metadata", {})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(values)} | fields


class Tenant:
    """Namespace, RootKey and KeyAuthorization of one name."""

    def __init__(self, keyshred: Keyshred, name: str) -> None:
        self.keyshred = keyshred
        self.kubectl: Kubectl = keyshred.cluster.kubectl
        self.name = name

    @classmethod
    def create(cls, keyshred: Keyshred) -> Self:
        """A fresh one, Ready to seal."""
        tenant = cls(keyshred, f"tenant-{uuid.uuid4().hex[:8]}")
        PLAINTEXT.seals(tenant.name)
        tenant.kubectl.run("create", "namespace", tenant.name)
        for account in (READER, STRANGER):
            accounts.create(tenant.kubectl, tenant.name, account)
        reader = {"namespace": tenant.name, "name": READER, "allowUnbound": True}
        tenant.kubectl.apply(root_key(tenant.name), authorization(tenant.name, [tenant.name], subjects=[reader]))
        tenant.wait_ready()
        return tenant

    @classmethod
    def create_with_key_first(cls, keyshred: Keyshred) -> Self:
        """One whose namespace comes when its key is there: it seals from its first moment, nothing has to settle."""
        tenant = cls(keyshred, f"tenant-{uuid.uuid4().hex[:8]}")
        reader = {"namespace": tenant.name, "name": READER, "allowUnbound": True}
        tenant.kubectl.apply(root_key(tenant.name), authorization(tenant.name, [tenant.name], subjects=[reader]))
        tenant.wait_ready()
        tenant.kubectl.run("create", "namespace", tenant.name)
        for account in (READER, STRANGER):
            accounts.create(tenant.kubectl, tenant.name, account)
        return tenant

    def wait_ready(self) -> None:
        """Returns when the RootKey and the KeyAuthorization are Ready."""
        names = [f"rootkey/{self.name}", f"keyauthorization/{self.name}"]
        done = self.kubectl.run("wait", "--for=condition=Ready", "--timeout=120s", *names, check=False)
        if done.returncode:
            shown = {name: self.kubectl("get", name).get("status") for name in names}
            raise ClusterError(f"{done.stderr}{json.dumps(shown)}")

    def wait_policies(self) -> None:
        """Returns when the API server's policies decide again: one that restarted takes a moment to know the CRDs."""
        asked = json.dumps(self._pod("asked"))
        self.keyshred.webhook.wait_until(
            lambda: self.kubectl.run("create", "--dry-run=server", "-f", "-", input=asked, check=False).returncode == 0
        )

    @property
    def key_id(self) -> str:
        """The RootKey's key ID."""
        key_id: str = self.kubectl("get", "rootkey", self.name)["spec"]["keyID"]
        return key_id

    def record(self, key_id: str) -> dict[str, Any]:
        """The status of a KeyRecord."""
        status: dict[str, Any] = self.kubectl("get", "keyrecord", key_id)["status"]
        return status

    def create_secret(self, name: str, **values: str) -> None:
        """Creates a Secret with plaintext values."""
        self.kubectl.create(secret(self.name, name, values))

    def create_pod(self, name: str, *secrets: str, account: str = READER) -> None:
        """Creates a Pod that refers to the Secrets, so that its tokens unseal them; nothing runs here.

        By imagePullSecrets: a reference that shows no container a value, and so is let into a sealing namespace.
        """
        self.kubectl.create(self._pod(name, *secrets, account=account))

    def _pod(self, name: str, *secrets: str, account: str = READER) -> dict[str, Any]:
        spec = {
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": secret} for secret in secrets],
            "containers": [{"name": "c", "image": "none"}],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.name}, "spec": spec}

    def stored(self, name: str) -> dict[str, Any]:
        """The Secret as the API server gives it."""
        return dict(self.kubectl("get", "secret", name, f"--namespace={self.name}"))

    def in_etcd(self, name: str) -> bytes:
        """The Secret as etcd holds it."""
        key = f"/registry/secrets/{self.name}/{name}"
        return self.keyshred.cluster.etcd_raw(key)[key]

    def token(self, account: str = READER, *, pod: str | None = None) -> str:
        """A token of one of the tenant's ServiceAccounts for keyshred."""
        return accounts.token(self.kubectl, self.name, account, audience=AUDIENCE, pod=pod)

    def ask(self, name: str, token: str | None = None) -> tuple[int, dict[str, Any]]:
        """The unseal call: status and parsed body."""
        status, body, _ = self.keyshred.unseal(self.name, name, token or self.token())
        return status, json.loads(body)

    def unseal(self, name: str, token: str | None = None) -> dict[str, str]:
        """The values, which must be there to be had."""
        status, body = self.ask(name, token)
        assert status == 200, body
        values = {k: base64.b64decode(v).decode() for k, v in body["data"].items()}
        PLAINTEXT.unsealed(values.values())
        return values

    def expect_plaintext(self, *names: str) -> None:
        """These Secrets are stored in plaintext on purpose."""
        PLAINTEXT.expects(self.name, *names)

    def delete_key(self) -> str:
        """Deletes the RootKey and waits until it is gone; returns its key ID."""
        key_id = self.key_id
        self.kubectl.run("delete", "rootkey", self.name, "--wait=true", "--timeout=180s")
        return key_id


def decoded(stored: Mapping[str, Any]) -> dict[str, bytes]:
    """The stored values of a Secret."""
    return {k: base64.b64decode(v) for k, v in (stored.get("data") or {}).items()}
