"""Pods with user namespaces of their own (hostUsers: false) and sealed Secrets."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.cluster import images
from tests.cluster.node import Node, until
from tests.e2e import pods
from tests.integration.system.tenant import Tenant

Json = dict[str, Any]

IDENTITIES: Final[tuple[Json, ...]] = ({}, {"fsGroup": 3000}, {"runAsUser": 1000, "fsGroup": 2000})
VALUES: Final = {"password": b"s3cr3t-of-a-user-namespace", "empty": b"", "binary": bytes(range(256))}


@pytest.fixture
def tenant(tenant: Tenant) -> Iterator[Tenant]:
    """One where any ServiceAccount's pods may have what they refer to."""
    with pods.open_to_everybody(tenant) as opened:
        yield opened


NO_MAPPED_MOUNTS: Final = "idmap"
"""In what the kubelet says of a pod that cannot have a user namespace: the kernel makes no mounts for it."""


@pytest.fixture
def user_namespaces(node: Node, clear: str) -> None:
    """Skips where this machine's kernel gives no pod a user namespace of its own, keyshred or not."""
    kubectl = node.kubectl
    kubectl.create(pods.pod(clear, "probe", "cat /proc/self/uid_map", hostUsers=False))

    def obstacle() -> str:
        said = pods.events(kubectl, clear, "probe").splitlines()
        return next((line for line in said if NO_MAPPED_MOUNTS in line), "")

    def decided() -> bool:
        phase = kubectl("get", "pod", "probe", f"--namespace={clear}")["status"].get("phase")
        return phase == "Succeeded" or bool(obstacle())

    until("a plain pod has a user namespace, or an Event tells why not", decided)
    if why := obstacle():
        pytest.skip(f"no pod has a user namespace here: {why}")
    assert not _is_the_hosts(pods.seen(kubectl, clear, "probe"))


def _is_the_hosts(uid_map: str) -> bool:
    return uid_map.split()[:2] == ["0", "0"]


def _of_a_user_namespace(namespace: str, name: str, context: Json) -> Json:
    """A Pod that shows its files and its environment, and whom its users are outside."""
    volumes: list[Json] = [
        {"name": "plain", "secret": {"secretName": "app"}},
        {"name": "strict", "secret": {"secretName": "app", "defaultMode": 0o400}},
        {"name": "both", "projected": {"sources": [{"secret": {"name": "app"}}, {"secret": {"name": "other"}}]}},
    ]
    mounts = [{"name": v["name"], "mountPath": f"/seen/{v['name']}"} for v in volumes]
    mounts.append({"name": "plain", "mountPath": "/seen/file", "subPath": "password"})
    made = pods.pod(
        namespace,
        name,
        pods.LOOK,
        container={"volumeMounts": mounts},
        volumes=volumes,
        securityContext=context,
        hostUsers=False,
    )
    environment = {
        "env": [pods.variable("app", "password")],
        "envFrom": [{"secretRef": {"name": "other"}, "prefix": "P_"}],
    }
    for container, shown in (("environment", "environ"), ("outside", "uid_map")):
        command = ["sh", "-c", f"cat /proc/self/{shown}"]
        made["spec"]["containers"].append(
            {"name": container, "image": images.BUSYBOX, "command": command} | environment
        )
    return made


@pytest.mark.usefixtures("user_namespaces")
def test_pods_of_user_namespaces_see_what_the_kubelet_would_show_them(node: Node, tenant: Tenant, clear: str) -> None:
    """Files with owners and modes as they are inside, and environments."""
    kubectl = node.kubectl
    names = [f"p{n}" for n in range(len(IDENTITIES))]
    for namespace in (clear, tenant.name):
        kubectl.create(pods.secret(namespace, "app", VALUES), pods.secret(namespace, "other", {"more": b"of another"}))
        kubectl.create(*(_of_a_user_namespace(namespace, *who) for who in zip(names, IDENTITIES, strict=True)))
    assert b"s3cr3t" not in tenant.in_etcd("app")
    for namespace in (clear, tenant.name):
        pods.wait_ended(kubectl, namespace, *names)
    for name in names:
        native = pods.seen(kubectl, clear, name)
        assert native.endswith("done\n") and native.count("\n") > 30
        assert pods.seen(kubectl, tenant.name, name) == native
        both = pods.both_say(kubectl, (tenant.name, clear), name, "environment")
        environment, expected = map(pods.sorted_environment, both)
        assert environment == expected
        assert {"A=s3cr3t-of-a-user-namespace", "P_more=of another"} <= set(environment)
        assert not any(map(_is_the_hosts, pods.both_say(node.kubectl, (tenant.name, clear), name, "outside")))
