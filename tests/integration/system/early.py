"""A tenant whose namespace lived before keyshred came to it."""

from typing import Any

from tests.cluster import accounts
from tests.cluster.keyshred import Keyshred
from tests.integration.system.tenant import Object, Tenant, authorization

PLAIN = "from-before"


class Early(Tenant):
    """A namespace with Secrets of its own and no KeyAuthorization yet; the RootKey is another tenant's."""

    def __init__(self, keyshred: Keyshred, tenant: Tenant) -> None:
        super().__init__(keyshred, f"{tenant.name}-early")
        self.key = tenant.name
        self.kubectl.run("create", "namespace", self.name)
        accounts.create(self.kubectl, self.name)

    def authorize(self, **spec: Any) -> None:
        """Creates or changes its KeyAuthorization."""
        self.kubectl.apply(authorization(self.name, [self.name], rootKeyRef={"name": self.key}, **spec))

    def pod(self, name: str, *secrets: str) -> None:
        """A pod of a Deployment that mounts Secrets natively."""
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "0", "controller": True}
        metadata = {"name": name, "namespace": self.name, "labels": {"pod-template-hash": "5d4f"}}
        self.kubectl.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata | {"ownerReferences": [owner]},
                "spec": {
                    "containers": [{"name": "c", "image": "none"}],
                    "volumes": [{"name": s, "secret": {"secretName": s}} for s in secrets],
                },
            }
        )

    def status(self) -> dict[str, Any]:
        """Of its KeyAuthorization."""
        return dict(self.kubectl("get", "keyauthorization", self.name).get("status") or {})

    def condition(self, kind: str) -> Object:
        """One of its conditions."""
        shown: dict[str, Object] = {c["type"]: c for c in self.status().get("conditions") or ()}
        return shown.get(kind, {"status": "", "reason": "", "message": ""})

    def is_sealed(self, name: str) -> bool:
        return "keyshred.dev/envelope" in (self.stored(name)["metadata"].get("annotations") or {})

    def namespace(self, kind: str, name: str) -> str:
        """One of the namespace's labels or annotations."""
        meta = self.kubectl("get", "namespace", self.name)["metadata"]
        return str((meta.get(kind) or {}).get(f"keyshred.dev/{name}", ""))
