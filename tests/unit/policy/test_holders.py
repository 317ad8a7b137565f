"""What else needs Secrets as they are, and why."""

from typing import Any

import pytest

from keyshred.policy.found import Pod
from keyshred.policy.holders import read_gateway, read_ingress, read_template, read_volume

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
    assert (found.refers, found.workload) == (frozenset("ab"), "Ingress web") and "leave the Secret out" in found.why
    assert read_ingress(obj()).refers == frozenset()


def test_gateways() -> None:
    refs = [
        {"name": "a"},
        {"name": "b", "kind": "Secret", "group": "", "namespace": "ns"},
        {"name": "c", "namespace": "elsewhere"},
        {"name": "d", "kind": "Other"},
    ]
    found = read_gateway(obj(listeners=[{"tls": {"certificateRefs": refs}}, {"name": "http"}]))
    assert (found.refers, found.workload) == (frozenset("ab"), "Gateway web")


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
    assert {namespace: pod.refers for namespace, pod in found.items()} == expected
    assert all(pod.workload == "PersistentVolume web" and "driver" in pod.why for pod in found.values())


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
@pytest.mark.parametrize(
    ("volumes", "os", "refers", "words"),
    [
        ([FINE], None, set(), ""),
        ([FINE, OTHER_DRIVER], None, {"s"}, "spec.volumes[1].csi.nodePublishSecretRef"),
        ([MIXED, FINE], None, {"s"}, "spec.volumes[0].projected.sources"),
        ([FINE], "windows", {"t", "u"}, "Windows"),
        ([], None, set(), ""),
    ],
)
def test_templates_whose_pods_would_be_refused(
    kind: str, volumes: list[Json], os: str | None, refers: set[str], words: str
) -> None:
    pod: Json = {"containers": [{"name": "c", **ENV}], "volumes": volumes} | ({"os": {"name": os}} if os else {})
    template = {"template": {"spec": pod}}
    whole = obj(**({"jobTemplate": {"spec": template}} if kind == "CronJob" else template))
    found = read_template(kind, whole)
    assert (found.refers, found.workload) == (frozenset(refers), f"{kind} web")
    assert words in found.why and bool(found.why) == bool(refers)


def test_what_another_workload_makes_has_the_same_template() -> None:
    owned = obj(template={"spec": {"volumes": [MIXED]}}) | {
        "metadata": META | {"ownerReferences": [{"controller": True}]}
    }
    assert read_template("Job", owned) == Pod(frozenset(), "Job web")
