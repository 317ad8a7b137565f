"""Which Secrets a pod refers to: every place that the node authorizer knows, and no other."""

from typing import Any

import pytest

from keyshred.policy.pods import living, referred_secrets, workload


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"uid": "u"}, "spec": spec}


def env(name: str) -> dict[str, Any]:
    return {"env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]}


VOLUMES: list[dict[str, Any]] = [
    {"secret": {"secretName": "s"}},
    {"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}},
    {"azureFile": {"secretName": "s"}},
    {"csi": {"nodePublishSecretRef": {"name": "s"}}},
    *({kind: {"secretRef": {"name": "s"}}} for kind in ("flexVolume", "iscsi", "rbd", "cephfs", "scaleIO")),
    *({kind: {"secretRef": {"name": "s"}}} for kind in ("storageos", "cinder")),
]


@pytest.mark.parametrize("volume", VOLUMES, ids=lambda v: next(iter(v)))
def test_volumes(volume: dict[str, Any]) -> None:
    assert referred_secrets(pod(volumes=[volume])) == {"s"}


@pytest.mark.parametrize("kind", ["initContainers", "containers", "ephemeralContainers"])
def test_containers(kind: str) -> None:
    assert referred_secrets(pod(**{kind: [env("a"), {"envFrom": [{"secretRef": {"name": "b"}}]}]})) == {"a", "b"}


def test_image_pull_secrets() -> None:
    assert referred_secrets(pod(imagePullSecrets=[{"name": "a"}, {}])) == {"a"}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"volumes": None, "containers": None},
        {"volumes": [{"configMap": {"name": "s"}}, {"emptyDir": {}}, {"projected": {"sources": None}}]},
        {"containers": [{"env": [{"name": "s", "value": "s"}], "envFrom": [{"configMapRef": {"name": "s"}}]}]},
        {"containers": [{"env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "s"}}}]}]},
        {"serviceAccountName": "s"},
        {"volumes": {"secret": {"secretName": "s"}}, "containers": "s", "imagePullSecrets": {"name": "s"}},
        {"volumes": [None, "s", {"secret": "s"}, {"secret": {"secretName": ["s"]}}, {"projected": ["s"]}]},
        {"volumes": [{"projected": {"sources": {"secret": {"name": "s"}}}}, {"csi": "s"}, {"rbd": {"secretRef": 1}}]},
        {"containers": [None, "s", {"env": {"name": "s"}, "envFrom": "s"}, {"env": [1], "envFrom": [None]}]},
        {"containers": [{"env": [{"valueFrom": "s"}, {"valueFrom": {"secretKeyRef": {"name": {"s": 1}}}}]}]},
        {"imagePullSecrets": [None, 1, {"name": 1}]},
    ],
)
def test_what_refers_to_no_secret(spec: dict[str, Any]) -> None:
    assert referred_secrets(pod(**spec)) == frozenset()


@pytest.mark.parametrize(
    ("phase", "uid", "expected"),
    [
        ("Pending", "u", True),
        ("Running", "u", True),
        (None, "u", True),
        ("Succeeded", "u", False),
        ("Failed", "u", False),
        ("Running", "v", False),
        ("Running", "", False),
    ],
)
def test_living(phase: str | None, uid: str, expected: bool) -> None:
    assert living(pod() | {"status": {"phase": phase}}, uid) is expected


OWNER = {"kind": "ReplicaSet", "name": "web-5d4f", "controller": True}


@pytest.mark.parametrize(
    ("metadata", "restart"),
    [
        ({}, "Pod p"),
        ({"ownerReferences": [OWNER], "labels": {"pod-template-hash": "5d4f"}}, "Deployment web"),
        ({"ownerReferences": [OWNER]}, "ReplicaSet web-5d4f"),
        ({"ownerReferences": [OWNER], "labels": {"pod-template-hash": "4f"}}, "ReplicaSet web-5d4f"),
        ({"ownerReferences": [OWNER | {"controller": False}]}, "Pod p"),
        ({"ownerReferences": [OWNER | {"kind": "StatefulSet", "name": "db"}]}, "StatefulSet db"),
    ],
)
def test_what_to_restart(metadata: dict[str, Any], restart: str) -> None:
    assert workload({"metadata": {"name": "p"} | metadata}) == restart
