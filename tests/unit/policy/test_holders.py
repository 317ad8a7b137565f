"""What needs Secrets as they are, and why."""

from typing import Any

import pytest

from keyshred.policy.found import Holder, When
from keyshred.policy.holders import read_gateway, read_ingress, read_pod, read_template, read_volume

Json = dict[str, Any]
META: Json = {"name": "web", "namespace": "ns"}
OTHER_DRIVER: Json = {"name": "share", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}
MIXED: Json = {"name": "all", "projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}]}}
FINE: Json = {"name": "fine", "secret": {"secretName": "t"}}
ENV: Json = {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "u", "key": "k"}}}]}


def obj(**spec: Any) -> Json:
    return {"metadata": META, "spec": spec}


def test_ingresses() -> None:
    found = read_ingress(obj(tls=[{"secretName": "a"}, {"hosts": ["h"]}, {"secretName": "b"}]))
    assert (found.refers, found.who) == (frozenset("ab"), "Ingress web") and "leave the Secret out" in found.why
    assert read_ingress(obj()).refers == frozenset()


def test_gateways() -> None:
    refs = [
        {"name": "a"},
        {"name": "b", "kind": "Secret", "group": "", "namespace": "ns"},
        {"name": "c", "namespace": "elsewhere"},
        {"name": "d", "kind": "Other"},
    ]
    found = read_gateway(obj(listeners=[{"tls": {"certificateRefs": refs}}, {"name": "http"}]))
    assert (found.refers, found.who) == (frozenset("ab"), "Gateway web")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"csi": {"driver": "d", "nodeStageSecretRef": {"name": "a", "namespace": "x"}}}, {"x": {"a"}}),
        (
            {
                "csi": {
                    "nodePublishSecretRef": {"name": "a", "namespace": "x"},
                    "controllerExpandSecretRef": {"name": "b", "namespace": "y"},
                }
            },
            {"x": {"a"}, "y": {"b"}},
        ),
        ({"azureFile": {"secretName": "a", "secretNamespace": "x"}}, {"x": {"a"}}),
        ({"azureFile": {"secretName": "a"}, "claimRef": {"namespace": "claims"}}, {"claims": {"a"}}),
        ({"rbd": {"secretRef": {"name": "a"}}, "claimRef": {"namespace": "claims"}}, {"claims": {"a"}}),
        ({"hostPath": {"path": "/"}}, {}),
    ],
)
def test_persistent_volumes(spec: Json, expected: dict[str, set[str]]) -> None:
    found = read_volume(obj(**spec))
    assert {namespace: holder.refers for namespace, holder in found.items()} == expected
    assert all(holder.who == "PersistentVolume web" and "driver" in holder.why for holder in found.values())


ALWAYS, SEALED, ABSENT = When.ALWAYS, When.SEALED, When.ABSENT
ENV_FROM: Json = {"envFrom": [{"secretRef": {"name": "all"}}, {"secretRef": {"name": "late", "optional": True}}]}
HINDERED: list[tuple[list[Json], str, Json, set[tuple[str, When]]]] = [
    ([FINE], "linux", ENV, set()),
    ([], "linux", ENV_FROM, {("all", ABSENT)}),
    ([FINE, OTHER_DRIVER], "linux", {}, {("s", SEALED)}),
    ([MIXED, FINE], "linux", ENV_FROM, {("s", ALWAYS)}),
    (
        [MIXED, OTHER_DRIVER | {"csi": {"nodePublishSecretRef": {"name": "d"}}}],
        "linux",
        {},
        {("s", ALWAYS), ("d", SEALED)},
    ),
    ([FINE], "windows", ENV, {("t", ALWAYS), ("u", ALWAYS)}),
    ([], "windows", {}, set()),
]
"""Volumes, operating system, environment; what hinders a new pod."""


def pod_spec(volumes: list[Json], os: str, env: Json) -> Json:
    return {"containers": [{"name": "c", **env}], "volumes": volumes, "os": {"name": os}}


def hindered(found: Holder) -> set[tuple[str, When]]:
    return {(h.secret, h.when) for h in found.hindrances}


@pytest.mark.parametrize(("volumes", "os", "env", "expected"), HINDERED)
@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_templates_whose_pods_would_be_refused(
    kind: str, volumes: list[Json], os: str, env: Json, expected: set[tuple[str, When]]
) -> None:
    template = {"template": {"spec": pod_spec(volumes, os, env)}}
    found = read_template(kind, obj(**({"jobTemplate": {"spec": template}} if kind == "CronJob" else template)))
    assert (found.who, found.why, hindered(found)) == (f"{kind} web", "", expected)
    assert found.refers == {name for name, when in expected if when is not ABSENT}


def test_each_secret_has_the_words_for_its_own_volume() -> None:
    other = {"name": "share", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "d"}}}
    found = read_template("Job", obj(template={"spec": pod_spec([MIXED, other], "linux", {})}))
    words = {h.secret: h.words for h in found.hindrances}
    assert "spec.volumes[0].projected.sources" in words["s"]
    assert "spec.volumes[1].csi.nodePublishSecretRef" in words["d"]


@pytest.mark.parametrize(
    ("owner", "is_read"),
    [
        ({"kind": "CronJob", "controller": True}, False),
        ({"kind": "Deployment", "controller": True}, False),
        ({"kind": "Database", "controller": True}, True),
        ({"kind": "CronJob"}, True),
    ],
)
def test_a_template_is_read_where_no_other_says_the_same(owner: Json, is_read: bool) -> None:
    owned = obj(template={"spec": {"volumes": [MIXED]}}) | {"metadata": META | {"ownerReferences": [owner]}}
    assert (hindered(read_template("Job", owned)) == {("s", ALWAYS)}) is is_read


@pytest.mark.parametrize(("phase", "refers"), [("Running", {"t"}), ("Pending", {"t"}), ("Failed", set())])
def test_a_pod(phase: str, refers: set[str]) -> None:
    pod = {"metadata": META, "spec": {"volumes": [FINE]}, "status": {"phase": phase}}
    assert read_pod(pod) == Holder(frozenset(refers), "Pod web")


@pytest.mark.parametrize(
    ("owner", "who", "is_read"),
    [
        ({}, "Pod web", True),
        ({"kind": "Database", "name": "db", "controller": True}, "Database db", True),
        ({"kind": "StatefulSet", "name": "db", "controller": True}, "StatefulSet db", False),
    ],
)
def test_a_pod_of_a_template_that_is_not_read_tells_what_hinders_the_next(owner: Json, who: str, is_read: bool) -> None:
    found = read_pod({"metadata": META | {"ownerReferences": [owner]}, "spec": {"volumes": [MIXED, FINE]}})
    assert (found.refers, found.who) == (frozenset({"s", "t"}), who)
    assert hindered(found) == ({("s", ALWAYS)} if is_read else set())
