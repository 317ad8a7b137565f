"""What is known of namespaces, where something in them cannot be read."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from keyshred.controller.index import Index
from keyshred.kube.client import Json, path
from keyshred.policy import holders
from keyshred.policy.lifecycle import Dependents
from tests.unit.fakes import KEY_A, FakeKube, settle

PODS, SECRETS, DEPLOYMENTS = (
    path("pods", namespace="ns"),
    path("secrets", namespace="ns"),
    path("deployments", namespace="ns", group="apps", version="v1"),
)
VOLUMES = path("persistentvolumes")
OTHERS = [
    path(resource, namespace="ns", group=group, version="v1")
    for group, resource in (
        ("networking.k8s.io", "ingresses"),
        ("gateway.networking.k8s.io", "gateways"),
        ("apps", "statefulsets"),
        ("apps", "daemonsets"),
        ("apps", "replicasets"),
        ("batch", "jobs"),
        ("batch", "cronjobs"),
    )
]


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube(PODS, SECRETS, DEPLOYMENTS, VOLUMES, *OTHERS)


@pytest.fixture
async def index(kube: FakeKube) -> AsyncIterator[Index]:
    made = Index(kube.kube, secrets_changed=lambda: None, pods_changed=lambda: None)
    yield made
    made.follow(set(), set())
    await settle()


async def follow(index: Index) -> None:
    index.follow({"ns"}, {"ns"})
    for _ in range(5):
        await settle()


async def test_what_cannot_be_read_holds_every_name_in_it(
    kube: FakeKube, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("workload", "hindrances"):
        monkeypatch.setattr(holders, name, _failing(getattr(holders, name)))
    odd: Any = {"metadata": {"labels": {"odd": "x"}}}
    spec = {"volumes": [{"name": "v", "secret": {"secretName": "db"}}]}
    kube.put(PODS, "odd", spec=spec, **odd)
    kube.put(PODS, "fine", spec={"volumes": [{"name": "v", "secret": {"secretName": "web"}}]})
    kube.put(DEPLOYMENTS, "odd", spec={"template": {"spec": spec, **odd}})
    kube.put(VOLUMES, "odd", spec={"csi": {"nodeStageSecretRef": {"name": ["x"], "namespace": "ns"}, "name": "pv"}})
    await follow(index)
    found = index.place("ns").holders
    assert found is not None
    assert {key: set(holder.refers) for key, holder in found.items()} == {
        "Pod/odd": {"db", "v"},
        "Pod/fine": {"web"},
        "Deployment/odd": {"db", "v"},
        "PersistentVolume/odd": {"pv"},
    }


def _failing(read: Callable[[Json], Any]) -> Callable[[Json], Any]:
    """The same, but for objects that say that they are odd."""

    def failing(obj: Json) -> Any:
        if "odd" in obj.get("metadata", {}).get("labels", {}):
            raise RecursionError
        return read(obj)

    return failing


async def test_a_status_alone_is_not_planned_for(kube: FakeKube, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"template": {"spec": {"volumes": [{"name": "v", "secret": {"secretName": "db"}}]}}}
    kube.put(DEPLOYMENTS, "web", notify=False, spec=spec)
    await follow(index)
    monkeypatch.setattr(holders, "hindrances", None)
    kube.put(DEPLOYMENTS, "web", spec=spec, status={"replicas": 1})
    await settle()
    assert (index.place("ns").holders or {})["Deployment/web"].why == ""


async def test_a_secret_that_cannot_be_read_may_depend_on_any_key(kube: FakeKube, index: Index) -> None:
    """Then the count comes from a list, by which nothing slips past the guards."""
    meta = {"namespace": "ns", "resourceVersion": "1"}
    kube.put(SECRETS, "s", notify=False, cells=["s", "Opaque", 1], object={"metadata": meta | {"name": "s"}})
    await follow(index)
    assert isinstance(index.count(KEY_A, {"ns"}), Dependents)
    kube.put(SECRETS, "odd", cells=[], object={"metadata": meta | {"name": "odd"}})
    await settle()
    assert index.count(KEY_A, {"ns"}) is None and set(index.place("ns").secrets or ()) == {"s"}
    kube.remove(SECRETS, "odd")
    await settle()
    assert isinstance(index.count(KEY_A, {"ns"}), Dependents)
