"""Which nodes get pods with Secrets in their environment, and when a new one is opened."""

from typing import Any

import pytest

from keyshred.names import LABEL_ENV_FILES, TAINT_NOT_READY
from keyshred.policy.nodes import Node, fills_environments, has_driver, label_change, read_node, waits


def node(version: str, labels: dict[str, str] | None = None, taints: list[dict[str, Any]] | None = None) -> Node:
    return read_node(
        {
            "metadata": {"name": "n", "labels": labels or {}},
            "spec": {"taints": taints or []},
            "status": {"nodeInfo": {"kubeletVersion": version}},
        }
    )


@pytest.mark.parametrize(
    ("version", "fills"),
    [
        ("v1.36.3", True),
        ("v1.35.0", True),
        ("v1.35.0-alpha.1+abc", True),
        ("v1.34.9", False),
        ("v1.9.0", False),
        ("v2.0.1", True),
        ("1.35.1-eks-1", True),
        ("", False),
        ("unknown", False),
    ],
)
def test_kubelets_that_fill_environments(version: str, fills: bool) -> None:
    assert fills_environments(version) is fills
    assert label_change(node(version)) == ({LABEL_ENV_FILES: "true"} if fills else {})
    assert label_change(node(version, {LABEL_ENV_FILES: "true"})) == ({} if fills else {LABEL_ENV_FILES: None})


@pytest.mark.parametrize("version", ["v1.36.0", "v1.34.0", ""])
@pytest.mark.parametrize("value", ["false", "no", ""])
def test_a_value_that_somebody_else_wrote_keeps_these_pods_off(version: str, value: str) -> None:
    assert label_change(node(version, {LABEL_ENV_FILES: value})) == {}


def test_a_new_node_is_opened_when_its_driver_is_there() -> None:
    tainted = node("v1.36.0", taints=[{"key": TAINT_NOT_READY, "effect": "NoSchedule"}])
    assert waits(tainted, True)
    assert not waits(tainted, False)
    assert not waits(node("v1.36.0", taints=[{"key": "other", "effect": "NoExecute"}]), True)


def test_a_node_that_says_nothing() -> None:
    assert read_node({"metadata": {"name": "n"}}) == Node("", None, ())
    assert not has_driver({"spec": {"drivers": None}})
    assert not has_driver({})
    assert has_driver({"spec": {"drivers": [{"name": "other"}, {"name": "csi.keyshred.dev"}]}})
