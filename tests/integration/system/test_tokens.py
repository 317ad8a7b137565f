"""Inside a cluster: the pod's own ServiceAccount, whose token the kubelet renews on disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import accounts
from tests.cluster.keyshred import Keyshred
from tests.cluster.kubectl import Kubectl, write_kubeconfig
from tests.integration.controller.lab import until
from tests.integration.system.tenant import Tenant

ACCOUNTS = ("keyshred-webhook", "keyshred-controller")
CUSTOMIZE = """
import datetime, os, sys
from kubernetes.aio.config import incluster_config as c
account = "/keyshred-controller" if "controller" in sys.orig_argv else "/keyshred-webhook"
c.SERVICE_TOKEN_FILENAME = os.environ["TEST_ACCOUNTS"] + account + "/token"
c.SERVICE_CERT_FILENAME = os.environ["TEST_ACCOUNTS"] + account + "/ca.crt"
begin = c.InClusterConfigLoader.__init__
def quick(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    self._token_refresh_period = datetime.timedelta(seconds=1)
c.InClusterConfigLoader.__init__ = quick
"""
"""Run by each interpreter at its start: the library's files in another folder, read once a second and not a minute."""


class Inside(Keyshred):
    """keyshred's processes with what a pod has: no kubeconfig, a folder with a token, and where the API server is."""

    def __init__(self, like: Keyshred, directory: Path) -> None:
        super().__init__(like.cluster, like.token, webhook_flags=like.webhook_flags)
        # The Lease outlasts the restart of an API server on a slow machine.
        self.controller_flags = (*like.controller_flags, "--lease-duration=120")
        self.port, self.directory = like.port, directory
        (directory / "sitecustomize.py").write_text(CUSTOMIZE)

    def renew(self, pod: str) -> None:
        """Tokens that live as long as this pod, in place of those before."""
        kubectl = self.cluster.kubectl
        for account in ACCOUNTS:
            folder = self.directory / account
            folder.mkdir(exist_ok=True)
            name = f"{account}-{pod}"
            container = {"name": "c", "image": "none"}
            spec = {"serviceAccountName": account, "containers": [container], "automountServiceAccountToken": False}
            metadata = {"name": name, "namespace": "keyshred"}
            kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
            (folder / "new").write_text(accounts.token(kubectl, "keyshred", account, pod=name))
            (folder / "new").replace(folder / "token")
            (folder / "ca.crt").write_bytes(self.cluster.authority.certificate.read_bytes())

    def end(self, pod: str) -> None:
        """The tokens of this pod are worth nothing any more."""
        names = [f"{account}-{pod}" for account in ACCOUNTS]
        self.cluster.kubectl.run("delete", "pod", "--namespace=keyshred", "--force", *names)

    def _command(self, name: str, *flags: str) -> list[str]:
        return [word for word in super()._command(name, *flags) if not word.startswith("--kubeconfig")]

    def _env(self) -> dict[str, str]:
        host, port = self.cluster.url.removeprefix("https://").split(":")
        env = super()._env() | {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        return env | {"PYTHONPATH": f"{self.directory}:{env['PYTHONPATH']}", "TEST_ACCOUNTS": str(self.directory)}


@pytest.fixture
def inside(keyshred: Keyshred, tmp_path: Path) -> Iterator[Inside]:
    inside = Inside(keyshred, tmp_path)
    inside.renew("first")
    try:
        inside.start_webhook()
        inside.start_controller()
        yield inside
    finally:
        inside.down()  # while its credentials hold: it gives the Lease back
        keyshred.start_webhook()
        keyshred.start_controller()


def test_a_renewed_token_is_taken_up(inside: Inside) -> None:
    tenant = Tenant.create(inside)
    tenant.create_secret("app", a="one")
    assert tenant.unseal("app") == {"a": "one"}
    pids = (inside.webhook.pid, inside.controller.pid)
    old = inside.directory / "keyshred-webhook" / "token"
    stale = inside.directory / "stale.kubeconfig"
    user = {"token": old.read_text()}
    as_before = Kubectl(write_kubeconfig(stale, inside.cluster.url, inside.cluster.authority.certificate, user))
    inside.renew("second")
    inside.end("first")
    # It remembers tokens for some seconds, and watches that are open go on: kopf has to log in again now.
    inside.cluster.stop_apiserver()
    inside.cluster.start_apiserver()
    until(lambda: as_before.run("get", "rootkeys", check=False).returncode != 0)
    inside.webhook.wait_until(inside.is_ready)
    tenant.wait_policies()
    assert tenant.unseal("app") == {"a": "one"}
    Tenant.create(inside).create_secret("app", a="two")
    assert (inside.webhook.pid, inside.controller.pid) == pids
