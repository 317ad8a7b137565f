"""keyshred on a node: its image, loaded, and its chart, installed by Helm as a user would."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster import image
from tests.cluster.chart import CHART, NAMESPACE, helm, values_file
from tests.cluster.node import Node

RELEASE = "keyshred"


def install(
    node: Node,
    values: Mapping[str, Any] | None = None,
    *,
    flags: Sequence[str] = ("--wait", "--timeout=120s"),
    chart: Path = CHART,
) -> str:
    """`helm upgrade --install`; returns what Helm says. The image is built and loaded where it is missing.

    Errors: ClusterError.
    """
    load(node)
    file = values_file(node.directory, values or {})
    command = ["upgrade", "--install", RELEASE, str(chart), f"--namespace={NAMESPACE}", "--create-namespace"]
    # With no values at all Helm would keep those of last time.
    return helm(*command, "--reset-values", f"--values={file}", *flags, kubeconfig=node.kubeconfig)


def load(node: Node) -> None:
    """Loads the image, built where it is missing, unless the node has that very one. Errors: ClusterError."""
    archive = image.ensure()
    loaded, stamp = node.directory / "loaded", str(archive.stat().st_mtime_ns)
    if not loaded.exists() or loaded.read_text() != stamp:
        node.load_image(archive)
        loaded.write_text(stamp)


def uninstall(node: Node) -> str:
    """`helm uninstall`; returns what Helm says. Errors: ClusterError."""
    return helm(
        "uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=120s", kubeconfig=node.kubeconfig
    )
