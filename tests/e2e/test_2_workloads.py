"""Pods with sealed Secrets see what the kubelet would have shown them: compared with an equal Secret in the clear."""

import itertools
import json
from typing import Any, Final

import pytest

from tests.cluster import images
from tests.cluster.node import Node, until
from tests.e2e import pods
from tests.e2e.installed import Installed
from tests.integration.system.tenant import Tenant

VALUES: Final = {
    "password": b"s3cr3t-of-the-matrix",
    "empty": b"",
    "two.lines": b"one\ntwo\n",
    "binary": bytes(range(256)),
}
ITEMS: Final = (
    None,
    [{"key": "password", "path": "deep/er/pw", "mode": 0o440}, {"key": "empty", "path": "nothing"}],
)
MODES: Final = (None, 0o400, 0o640, 0o777)
IDENTITIES: Final[tuple[tuple[int | None, int | None], ...]] = ((None, None), (1000, None), (1000, 2000), (0, 3000))
"""runAsUser and fsGroup."""


@pytest.fixture
def tenant(tenant: Tenant) -> Tenant:
    """One where any ServiceAccount's pods may have what they refer to."""
    everybody = json.dumps({"spec": {"subjects": None}})
    tenant.kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", "-p", everybody)
    return tenant


def _volumes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for mode, items, projected, missing in itertools.product(MODES, ITEMS, (False, True), (False, True)):
        what: dict[str, Any] = {"items": items} if items else {}
        if missing:
            what |= {"optional": True}
        name = "absent" if missing else "app"
        if projected:
            sources = [{"secret": {"name": name} | what}, {"secret": {"name": "other"}}]
            source: dict[str, Any] = {"projected": {"sources": sources}}
        else:
            source = {"secret": {"secretName": name} | what}
        if mode is not None:
            next(iter(source.values()))["defaultMode"] = mode
        found.append({"name": f"v{len(found)}"} | source)
    return found


def _looking(namespace: str, name: str, user: int | None, group: int | None) -> dict[str, Any]:
    volumes = _volumes()
    mounts = [{"name": v["name"], "mountPath": f"/seen/{v['name']}"} for v in volumes]
    mounts += [
        {"name": "v0", "mountPath": "/seen/file", "subPath": "password"},
        {"name": "v4", "mountPath": "/seen/folder", "subPath": "deep"},
    ]
    context = {k: v for k, v in (("runAsUser", user), ("fsGroup", group)) if v is not None}
    return pods.pod(
        namespace, name, pods.LOOK, container={"volumeMounts": mounts}, volumes=volumes, securityContext=context
    )


def test_files_modes_owners_and_links(node: Node, tenant: Tenant, clear: str) -> None:
    """Every combination of defaultMode, items, optional, projected, fsGroup, runAsUser and subPath."""
    kubectl = node.kubectl
    for namespace in (tenant.name, clear):
        kubectl.create(pods.secret(namespace, "app", VALUES), pods.secret(namespace, "other", {"more": b"of another"}))
        kubectl.create(*(_looking(namespace, f"p{n}", *who) for n, who in enumerate(IDENTITIES)))
    assert b"s3cr3t" not in tenant.in_etcd("app")
    names = [f"p{n}" for n in range(len(IDENTITIES))]
    for namespace in (clear, tenant.name):
        pods.wait_ended(kubectl, namespace, *names)
    for name in names:
        native = pods.seen(kubectl, clear, name)
        assert native.endswith("done\n") and native.count("\n") > 300
        assert pods.seen(kubectl, tenant.name, name) == native
    kubectl.run("delete", "pod", "--all", f"--namespace={tenant.name}")


ENVIRONMENT: Final = {
    "PLAIN": b"hunter2",
    "spaces": b"  two  words ",
    "dollar": b"$HOME ${HOME} $(PLAIN) `id`",
    "hash": b"# no comment #",
    "backslash": rb"a\nb\\c",
    "lines": b"one\ntwo\n\nfour\n",
    "equals": b"a=b=c",
    "unicode": "grüße, мир, 世界".encode(),
    "empty": b"",
    "quotes": b'say "no"',
    "large": b"\n".join(b"x" * 1000 for _ in range(100)),
    "with.dot": b"odd name",
}


def _variables(namespace: str, name: str) -> dict[str, Any]:
    named = [
        {"name": f"V_{n}", "valueFrom": {"secretKeyRef": {"name": "env", "key": key}}}
        for n, key in enumerate(ENVIRONMENT)
    ]
    container = {
        "env": [
            *named,
            {"name": "COMPOSED", "value": "user:$(V_0)@host"},
            {"name": "OVER", "value": "explicit"},
            {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "env", "key": "none", "optional": True}}},
            {"name": "NOBODY", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "none", "optional": True}}},
        ],
        "envFrom": [
            {"secretRef": {"name": "env"}},
            {"configMapRef": {"name": "plain"}, "prefix": "CM_"},
            {"secretRef": {"name": "env"}, "prefix": "P_"},
            {"secretRef": {"name": "over"}},
            {"secretRef": {"name": "absent", "optional": True}},
        ],
    }
    first = {"name": "first", "image": images.BUSYBOX, "command": ["sh", "-c", "cat /proc/self/environ"]} | container
    return pods.pod(namespace, name, "cat /proc/self/environ", container=container, initContainers=[first])


def test_environments(node: Node, tenant: Tenant, clear: str) -> None:
    """Values of every kind that an environment can hold, by name, by prefix and in order; in an init container, too."""
    kubectl = node.kubectl
    for namespace in (tenant.name, clear):
        kubectl.create(
            pods.secret(namespace, "env", ENVIRONMENT),
            pods.secret(namespace, "over", {"OVER": b"of the Secret", "PLAIN": b"the later one wins"}),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "plain", "namespace": namespace},
                "data": {"a": "b"},
            },
            _variables(namespace, "env"),
        )
    for namespace in (clear, tenant.name):
        pods.wait_ended(kubectl, namespace, "env")
    for container in ("first", "main"):
        said = [_sorted(pods.seen(kubectl, n, "env", container)) for n in (tenant.name, clear)]
        assert said[0] == said[1]
        assert "V_0=hunter2" in said[0] and "PLAIN=the later one wins" in said[0] and "OVER=explicit" in said[0]


def _sorted(environment: str) -> list[str]:
    return sorted(v for v in environment.split("\0") if not v.startswith(("HOSTNAME=", "KUBERNETES_")))


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"it's", "'"), (b"a\r\nb", "carriage return"), (b"x" * 70000, "64 KiB"), (b"\xff\xfe", "UTF-8")],
)
def test_what_no_environment_file_can_carry_is_told_by_an_event(
    node: Node, tenant: Tenant, value: bytes, reason: str
) -> None:
    tenant.kubectl.create(pods.secret(tenant.name, "odd", {"key-of-it": value}))
    reference = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "odd", "key": "key-of-it"}}}
    tenant.kubectl.create(pods.pod(tenant.name, "waits", "true", container={"env": [reference]}))
    said = ""

    def told() -> bool:
        nonlocal said
        said = pods.events(tenant.kubectl, tenant.name, "waits")
        return "FailedMount" in said and "key-of-it" in said

    until("an Event names the key", told)
    assert "Secret odd" in said and reason in said
    assert json.dumps(value.decode(errors="replace"))[1:20] not in said
    tenant.kubectl.run("delete", "pod", "waits", f"--namespace={tenant.name}", "--wait=false")


def test_the_driver_is_there(installed: Installed) -> None:
    found = installed.kubectl("get", "csinode", "node")
    assert [d["name"] for d in found["spec"]["drivers"]] == ["csi.keyshred.dev"]
    labels = installed.kubectl("get", "node", "node")["metadata"]["labels"]
    assert labels["keyshred.dev/env-files"] == "true"


def test_the_taint_of_a_new_node_is_taken_off_and_no_other(installed: Installed) -> None:
    kubectl = installed.kubectl
    kubectl.run("taint", "node", "node", "keyshred.dev/not-ready=:NoSchedule", "example.com/other=:PreferNoSchedule")

    def taints() -> set[str]:
        return {taint["key"] for taint in kubectl("get", "node", "node")["spec"].get("taints") or ()}

    until("the taint is off", lambda: taints() == {"example.com/other"})
    kubectl.run("taint", "node", "node", "example.com/other-")
