"""CRDs of others whose resources the chart can make, as their Go modules carry them."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster import paths, versions
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import Kubectl


@dataclass(frozen=True)
class Source:
    """A Go module, the hash of its content as a go.sum has it, and the files in it."""

    module: str
    version: str
    sum: str
    files: tuple[str, ...]


CERT_MANAGER: Final = Source(
    "github.com/cert-manager/cert-manager",
    versions.CERT_MANAGER,
    versions.CERT_MANAGER_SUM,
    ("deploy/crds/cert-manager.io_certificates.yaml", "deploy/crds/cert-manager.io_issuers.yaml"),
)
PROMETHEUS_OPERATOR: Final = Source(
    "github.com/prometheus-operator/prometheus-operator",
    versions.PROMETHEUS_OPERATOR,
    versions.PROMETHEUS_OPERATOR_SUM,
    tuple(
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
        for kind in ("servicemonitors", "podmonitors", "prometheusrules")
    ),
)


def install(kubectl: Kubectl, source: Source) -> None:
    """Applies them; returns when the API server serves them. Errors: ClusterError."""
    files = [f"--filename={file}" for file in _download(source)]
    kubectl.run("apply", "--server-side", *files)
    kubectl.run("wait", "--for=condition=Established", "--timeout=180s", *files)


def _download(source: Source) -> list[Path]:
    paths.cache().mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{source.module}@{source.version}"],
        cwd=paths.cache(),
        env=os.environ | {"GOFLAGS": "-mod=mod"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout or "{}")
    if done.returncode or "Error" in found:
        raise ClusterError(f"{source.module}@{source.version}: {found.get('Error') or done.stderr.strip()}")
    if found["Sum"] != source.sum:
        raise ClusterError(f"{source.module}@{source.version} has the hash {found['Sum']}, and {source.sum} is pinned")
    return [Path(found["Dir"]) / file for file in source.files]
