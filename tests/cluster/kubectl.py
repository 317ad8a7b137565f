"""kubectl, and the kubeconfig files that it and other clients read."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster import paths
from tests.cluster.errors import ClusterError

Manifest = Mapping[str, Any]


class Kubectl:
    """kubectl as the identity of one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def __call__(self, *arguments: str, input: str | None = None) -> Any:
        """Runs with `-o json`; returns what that says, parsed. Errors: ClusterError."""
        return json.loads(self.run(*arguments, "-o", "json", input=input).stdout)

    def run(self, *arguments: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs; returns exit code, stdout and stderr as text.

        Errors: ClusterError with kubectl's own message where it fails, unless `check` is off.
        """
        # Arguments and input may hold values of Secrets: no traceback and no message shows them.
        __tracebackhide__ = True
        binary = paths.binaries() / "kubectl"
        cache = self.kubeconfig.with_suffix(".cache")
        done = subprocess.run(
            [binary, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={cache}", *arguments],
            # Else the preferences of the person who runs the tests would count.
            env=os.environ | {"KUBECTL_KUBERC": "false"},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise ClusterError(f"kubectl {arguments[0]}: {done.stderr.strip()}")
        return done

    def apply(self, *manifests: Manifest) -> None:
        """Server-side apply of the objects. Errors: ClusterError."""
        self.run("apply", "--server-side", "-f", "-", input=as_list(manifests))

    def create(self, *manifests: Manifest) -> None:
        """Creates the objects. Errors: ClusterError (also where one exists)."""
        self.run("create", "-f", "-", input=as_list(manifests))


def as_list(manifests: Sequence[Manifest]) -> str:
    """What `-f -` reads: one JSON list of the objects."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})


def write_kubeconfig(path: Path, server: str, authority: Path, user: Mapping[str, str]) -> Path:
    """Writes a kubeconfig (mode 0600). `user` has its fields: client-certificate and client-key, or token."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "user", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path
