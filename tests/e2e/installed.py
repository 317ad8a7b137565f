"""keyshred as its chart installs it, reached as pods and the API server reach it: by its Service."""

import base64
import http.client
import json
import socket
import ssl
from typing import Any, Final

from tests.cluster.chart import NAMESPACE
from tests.cluster.keyshred import Keyshred
from tests.cluster.node import Node, until
from tests.cluster.softhsm import SoftHsm

SERVICE: Final = "keyshred-webhook"
WEBHOOK, CONTROLLER, NODE = "webhook", "controller", "node"


class Installed(Keyshred):
    """What the tests of processes on this machine ask of keyshred, asked of the one on the node."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, SoftHsm(node.token_folder, "keyshred"))
        self.node = node
        self.kubectl = node.kubectl

    def connection(self) -> http.client.HTTPSConnection:
        """To the Service, trusting what the ConfigMap keyshred-ca has now."""
        address = self.kubectl("get", "service", SERVICE, f"--namespace={NAMESPACE}")["spec"]["clusterIP"]
        return _Connection(address, f"{SERVICE}.{NAMESPACE}.svc", self.tls_of_clients())

    def tls_of_clients(self) -> ssl.SSLContext:
        """What clients of the unseal call trust."""
        found = self.kubectl("get", "configmap", "keyshred-ca", f"--namespace={NAMESPACE}")
        return ssl.create_default_context(cadata=found["data"]["ca.crt"])

    def unseal(
        self, namespace: str, name: str, token: str, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """The unseal call: status, body, headers."""
        connection = self.connection()
        try:
            sent = {"Authorization": f"Bearer {token}"} | (headers or {})
            connection.request("POST", f"/v1/namespaces/{namespace}/secrets/{name}/unseal", headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)
        finally:
            connection.close()

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Pods of the webhook or of the controller that are not about to go."""
        selector = f"--selector=app.kubernetes.io/name=keyshred,app.kubernetes.io/component={component}"
        found = self.kubectl("get", "pods", f"--namespace={NAMESPACE}", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def wait_rolled_out(self) -> None:
        """Returns when all pods are the newest and ready."""
        self.node.wait_pods(NAMESPACE)

    def wait_running(self, component: str, number: int) -> None:
        """Returns when that many pods are ready."""
        until(f"{number} pods of {component}", lambda: sum(map(_is_ready, self.pods(component))) == number)

    def secret(self, name: str) -> dict[str, bytes]:
        """Data of a Secret in keyshred's own namespace."""
        data = self.kubectl("get", "secret", name, f"--namespace={NAMESPACE}")["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def numbers(self, component: str) -> dict[str, float]:
        """What /metrics of the first ready pod says: sample to value."""
        pod = next(pod for pod in self.pods(component) if _is_ready(pod))
        connection = http.client.HTTPConnection(pod["status"]["podIP"], 9402, timeout=60)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


class _Connection(http.client.HTTPSConnection):
    """To an address, by another name."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        super().__init__(address, 443, timeout=60)
        self._name = name
        self._trusted = context

    def connect(self) -> None:
        """See HTTPSConnection.connect."""
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._trusted.wrap_socket(plain, server_hostname=self._name)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of an object."""
    return next(c for c in obj["status"]["conditions"] if c["type"] == kind)


def dumped(obj: Any) -> str:
    """As JSON."""
    return json.dumps(obj)
