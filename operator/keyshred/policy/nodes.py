"""What the controller says of nodes: which ones fill environments from files, and when a new one may have pods."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from keyshred.names import LABEL_ENV_FILES, TAINT_NOT_READY
from keyshred.policy.volumes import DRIVER

Object = Mapping[str, Any]

_FIRST: Final = (1, 35)
"""Kubelets before it start a container with an empty value where it should come from a file (feature EnvFiles)."""
_FILLS: Final = "true"
"""What pods with Secrets in their environment select."""
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


class Node(NamedTuple):
    """What counts of a Node."""

    kubelet: str
    """Its version."""
    label: str | None
    """What LABEL_ENV_FILES says now."""
    taints: tuple[tuple[str, str], ...]
    """Key and effect of each."""


def read_node(node: Object) -> Node:
    """From the whole object."""
    return Node(
        ((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", ""),
        (node["metadata"].get("labels") or {}).get(LABEL_ENV_FILES),
        tuple((t["key"], t["effect"]) for t in (node.get("spec") or {}).get("taints") or ()),
    )


def has_driver(csi_node: Object) -> bool:
    """Whether the kubelet of a CSINode has registered our driver."""
    return any(d["name"] == DRIVER for d in (csi_node.get("spec") or {}).get("drivers") or ())


def fills_environments(kubelet: str) -> bool:
    """Whether a kubelet of this version sets variables from files (KEP-3721); False where it cannot be read."""
    found = _VERSION.match(kubelet)
    return found is not None and (int(found[1]), int(found[2])) >= _FIRST


def label_change(node: Node) -> dict[str, str | None]:
    """Labels to set, None to take away; empty: it is as it should be.

    Another value than ours is somebody's, who keeps these pods off the node by it.
    """
    if node.label not in (None, _FILLS):
        return {}
    wanted = _FILLS if fills_environments(node.kubelet) else None
    return {} if node.label == wanted else {LABEL_ENV_FILES: wanted}


def waits(node: Node, registered: bool) -> bool:
    """Whether it carries the taint for new nodes, and its driver is there by now."""
    return registered and any(key == TAINT_NOT_READY for key, _ in node.taints)
