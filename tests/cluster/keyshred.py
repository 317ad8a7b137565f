"""keyshred itself on a control plane: its resources installed, its processes on this machine, with their own rights."""

import base64
import http.client
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster import ports
from tests.cluster.apiserver import WEBHOOK_CLIENT
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.cluster.paths import REPOSITORY
from tests.cluster.pki import Pair
from tests.cluster.processes import Process
from tests.cluster.softhsm import SoftHsm

_MANIFESTS: Final = Path(__file__).parent / "install"
_NAMESPACE: Final = "keyshred"


class Keyshred:
    """One installation: `up` brings everything, `webhooks` and `controller` can be stopped and started one by one."""

    def __init__(
        self,
        cluster: ControlPlane,
        token: SoftHsm,
        *,
        webhook_flags: Sequence[str] = (),
        controller_flags: Sequence[str] = (),
    ) -> None:
        self.cluster = cluster
        self.token = token
        self.webhook_flags = tuple(webhook_flags)
        self.controller_flags = tuple(controller_flags)
        self.port = ports.free()
        self.webhook = Process("webhook", cluster.directory)
        self.controller = Process("controller", cluster.directory)
        self._serving = cluster.authority.issue(
            "webhook", "keyshred-webhook", hosts=["127.0.0.1", "keyshred-webhook.keyshred.svc"]
        )

    @property
    def url(self) -> str:
        """Where the webhook listens."""
        return f"https://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Installs and starts; returns when the webhook is ready. Errors: ClusterError."""
        self.install_crds()
        self.cluster.kubectl.apply(*manifests("rbac.yaml"))
        self.cluster.kubectl.apply(*manifests("policies.yaml"))
        self.start_webhook()
        self.webhook.wait_until(lambda: not self.may_delete_crds())
        self.install_webhooks()
        self.start_controller()

    def install_crds(self) -> None:
        """Applies the CRDs; returns when the API server serves them."""
        install_crds(self.cluster.kubectl)

    def break_glass(self) -> None:
        """Lets keyshred's CRDs be deleted, as docs/admission.md says; returns when the API server has noticed."""
        self.cluster.kubectl.run("delete", "validatingadmissionpolicybinding", "crds.keyshred.dev")
        self.webhook.wait_until(self.may_delete_crds)

    def may_delete_crds(self) -> bool:
        """Whether that policy is out of force: an API server reads policies anew once a second, all at a time."""
        tried = self.cluster.kubectl.run("delete", "crd", "rootkeys.keyshred.dev", "--dry-run=server", check=False)
        return tried.returncode == 0

    def install_webhooks(self, port: int | None = None) -> None:
        """Has the API server call what listens on `port`, the webhook's own where none is given."""
        self.cluster.kubectl.apply(*(self._by_url(m, port) for m in manifests("webhooks.yaml")))

    def down(self) -> None:
        """Stops the processes; what they made stays."""
        self.controller.stop()
        self.webhook.stop()

    def start_webhook(self, timeout: float = 60) -> None:
        """Starts the webhook's parent and its workers; returns when it is ready.

        Errors: ClusterError, also where it is not ready after `timeout` seconds.
        """
        self.webhook.start(
            self._command(
                "webhook",
                f"--tls-cert={self._serving.certificate}",
                f"--tls-key={self._serving.key}",
                f"--client-ca={self.cluster.authority.certificate}",
                f"--client-name={WEBHOOK_CLIENT}",
                "--listen=127.0.0.1",
                f"--port={self.port}",
                "--drain-delay=0",
                "--pod-image=keyshred",
                *self.webhook_flags,
            ),
            env=self._env(),
        )
        self.webhook.wait_until(self.is_ready, timeout)

    def start_controller(self, env: dict[str, str] | None = None) -> None:
        """Starts the controller."""
        # One API server knows a label at once, and a whole one settles before anything in it is sealed.
        flags = ("--settle=1", *self.controller_flags)
        self.controller.start(self._command("controller", *flags), env=self._env() | (env or {}))

    def is_ready(self) -> bool:
        """Whether one of the workers says that it is ready."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", context=self.tls(), timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # HTTPError is one
            return False

    def workers(self) -> list[int]:
        """Pids of the webhook's worker processes, in the order of their start."""
        found = ["pgrep", "-P", str(self.webhook.pid), "-f", "spawn_main"]
        return [int(pid) for pid in subprocess.run(found, capture_output=True, text=True).stdout.split()]

    def unseal(
        self, namespace: str, name: str, token: str, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """The unseal call: status, body, headers."""
        request = urllib.request.Request(
            f"{self.url}/v1/namespaces/{namespace}/secrets/{name}/unseal",
            method="POST",
            headers={"Authorization": f"Bearer {token}"} | (headers or {}),
        )
        try:
            with urllib.request.urlopen(request, context=self.tls(), timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)

    def connection(self) -> http.client.HTTPSConnection:
        """A connection to the webhook, for calls of its own."""
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls(), timeout=60)

    def tls(self, client: Pair | None = None) -> ssl.SSLContext:
        """What a client trusts: the cluster's authority; and the certificate that it shows, if any."""
        context = ssl.create_default_context(cafile=str(self.cluster.authority.certificate))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    def _command(self, name: str, *flags: str) -> list[str]:
        kubeconfig = self.cluster.service_account_kubeconfig(_NAMESPACE, f"keyshred-{name}")
        common = [f"--token-uri={self.token.uri}", f"--kubeconfig={kubeconfig}", f"--namespace={_NAMESPACE}"]
        return [sys.executable, "-m", "keyshred", name, *common, *flags]

    def _env(self) -> dict[str, str]:
        return self.token.env | {"PYTHONPATH": str(REPOSITORY / "operator")}

    def _by_url(self, manifest: Any, port: int | None = None) -> Any:
        """Without nodes there are no Services: the API server calls this machine."""
        authority = base64.b64encode(self.cluster.authority.certificate.read_bytes()).decode()
        for webhook in manifest["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port or self.port}{path}", "caBundle": authority}
        return manifest


def install_crds(kubectl: Kubectl) -> None:
    """Applies the CRDs; returns when the API server serves them."""
    crds = str(REPOSITORY / "crds")
    kubectl.run("apply", "--server-side", "-f", crds)
    kubectl.run("wait", "--for=condition=Established", "--timeout=180s", "-f", crds)


def manifests(name: str) -> list[Any]:
    """The objects of one of the files in `install`."""
    return [document for document in yaml.safe_load_all((_MANIFESTS / name).read_text()) if document]
