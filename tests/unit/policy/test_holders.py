"""What needs Secrets as they are, and why."""

from typing import Any

import pytest

from keyshred.policy import pod_plan
from keyshred.policy.found import Holder, When
from keyshred.policy.holders import (
    essence,
    read_gateway,
    read_ingress,
    read_pod,
    read_template,
    read_volume,
    unread,
    unread_volume,
)

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


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One for each plan that was made."""
    made: list[Any] = []
    plan = pod_plan.plan

    def counted(pod: Any, terms: Any) -> Json:
        made.append(pod)
        return plan(pod, terms)

    monkeypatch.setattr(pod_plan, "plan", counted)
    return made


def test_the_plans_of_one_object_are_few(plans: list[Any]) -> None:
    """Whoever may write it names as many Secrets as fit in."""
    sources = [{"secretRef": {"name": f"s{n}"}} for n in range(120)]
    late = [{"secretRef": {"name": f"late{n}", "optional": True}} for n in range(120)]
    found = read_template("Job", obj(template={"spec": pod_spec([], "linux", {"envFrom": sources + late})}))
    assert hindered(found) == {(f"s{n}", ABSENT) for n in range(120)}
    assert all(f"Secret {h.secret}" in h.words and "does not exist" in h.words for h in found.hindrances)
    assert len(plans) <= 8


def test_what_names_too_many_to_be_planned_for(plans: list[Any]) -> None:
    sources = [{"secretRef": {"name": f"s{n}"}} for n in range(1000)]
    found = read_template("Job", obj(template={"spec": pod_spec([FINE], "linux", {"envFrom": sources})}))
    assert found.refers == {"t"} | {f"s{n}" for n in range(1000)} and not plans
    assert hindered(found) == {(name, ALWAYS) for name in found.refers}
    assert "too many for one pod" in found.hindrances[0].words


def test_what_is_left_as_it_is_lacks_nothing() -> None:
    """Pods that a kubelet has from elsewhere, as the planner knows them."""
    sources = [{"secretRef": {"name": f"s{n}"}} for n in range(10)]
    meta = META | {"annotations": {"kubernetes.io/config.mirror": "x"}}
    assert not read_pod({"metadata": meta, "spec": pod_spec([], "linux", {"envFrom": sources})}).hindrances


def test_what_is_fine_is_planned_twice_at_most(plans: list[Any]) -> None:
    env = {"env": [{"name": f"A{n}", "valueFrom": {"secretKeyRef": {"name": f"s{n}", "key": "k"}}} for n in range(50)]}
    assert not read_template("Job", obj(template={"spec": pod_spec([FINE], "linux", env)})).hindrances
    assert len(plans) <= 2


WHOLE: Json = {
    "metadata": META | {"labels": {"a": "b"}, "resourceVersion": "1", "generation": 1, "managedFields": []},
    "spec": {"template": {"spec": {"volumes": [FINE]}}},
    "status": {"phase": "Running", "replicas": 1},
}


@pytest.mark.parametrize(
    ("part", "change", "is_same"),
    [
        ("status", {"replicas": 2}, True),
        ("metadata", {"resourceVersion": "2", "generation": 2, "managedFields": [{}]}, True),
        ("status", {"phase": "Failed"}, False),
        ("spec", {"template": {"spec": {"volumes": [MIXED]}}}, False),
        ("metadata", {"name": "other"}, False),
        ("metadata", {"uid": "made anew"}, False),
        ("metadata", {"labels": {"pod-template-hash": "x"}}, False),
        ("metadata", {"annotations": {"a": "b"}}, False),
        ("metadata", {"ownerReferences": [{"kind": "CronJob", "controller": True}]}, False),
    ],
)
def test_what_an_object_is_read_anew_for(part: str, change: Json, is_same: bool) -> None:
    assert (essence(WHOLE | {part: WHOLE[part] | change}) == essence(WHOLE)) is is_same


def test_an_object_that_cannot_be_read_needs_every_name_in_it() -> None:
    deep: Any = {"secretRef": {"name": "deep"}}
    for _ in range(100_000):
        deep = [deep]
    spec = pod_spec([FINE, MIXED, OTHER_DRIVER, {"deep": deep}], "linux", ENV | {"args": ["not-one"]})
    found = unread("Pod", obj(**spec, odd={"name": 5, "secretName": ["x"]}))
    expected = frozenset({"s", "t", "u", "c", "deep", "fine", "all", "share", "linux"})
    assert (found.refers, found.who) == (expected, "Pod web")
    assert "cannot read" in found.why and not found.hindrances
    assert unread("Pod", {"metadata": META}).refers == frozenset()


def test_names_that_no_secret_has_are_none() -> None:
    names = ("a.b-c", "A", "-a", "a_b", "", "a\n", "a" * 253, "a" * 254)
    assert unread("Job", obj(refs=[{"name": n} for n in names])).refers == {"a.b-c", "a" * 253}


def test_a_persistent_volume_that_cannot_be_read() -> None:
    spec = {
        "csi": {"nodeStageSecretRef": {"name": "a", "namespace": "x"}},
        "azureFile": {"secretName": "b", "secretNamespace": "y"},
        "claimRef": {"namespace": "claims"},
    }
    found = unread_volume(obj(**spec))
    assert {namespace: holder.refers for namespace, holder in found.items()} == {
        n: {"a", "b"} for n in ("x", "y", "claims")
    }
    assert all(holder.who == "PersistentVolume web" and holder.why for holder in found.values())
