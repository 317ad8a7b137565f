"""Admission of Pods: what is read for one, what is kept of it, and how reading fails."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import pytest

from keyshred.envelope.format import OVERHEAD
from keyshred.errors import KeyshredError, KubeUnavailable, PolicyNotFresh, Refused
from keyshred.kube.client import path
from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_NATIVE
from keyshred.policy import pod_plan
from keyshred.policy.pod_plan import Known, Terms
from keyshred.webhook import pods
from keyshred.webhook.pods import PodAdmission
from keyshred.webhook.review import Answer, Review
from tests.unit.fakes import FakeKube, FixedSnapshot, authorization, policy, root_key, settle

Json = dict[str, Any]
SECRETS, MAPS = (path(resource, namespace="ns") for resource in ("secrets", "configmaps"))


class Reading(FakeKube):
    """Counts what is under way. `stuck` are URLs that no answer comes for."""

    def __init__(self) -> None:
        super().__init__(SECRETS, MAPS)
        self.stuck: set[str] = set()
        self.under_way = self.most = self.cancelled = 0

    def secret(self, name: str, values: Mapping[str, bytes], sealed: bool = False) -> None:
        data = {key: base64.b64encode(value).decode() for key, value in values.items()}
        self.put(SECRETS, name, metadata={"annotations": {ANNOTATION_ENVELOPE: "e"} if sealed else None}, data=data)

    async def get(self, url: str, **how: Any) -> Json:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await settle()
            if url in self.stuck:
                await asyncio.Event().wait()
            return await super().get(url, **how)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1


def env_from(*names: str, maps: tuple[str, ...] = ()) -> Json:
    sources = [{"secretRef": {"name": n}} for n in names] + [{"configMapRef": {"name": n}} for n in maps]
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "envFrom": sources}]}}


def admission(kube: FakeKube, snapshot: FixedSnapshot | None = None) -> PodAdmission:
    fixed = snapshot or FixedSnapshot(policy(root_key(), authorization()))
    return PodAdmission(kube.kube, fixed.snapshot, "image", "Always")


async def admit(kube: FakeKube, pod: Json) -> Answer:
    return await admission(kube).admit(Review("1", "CREATE", "ns", "p", "u", False, pod, None))


@pytest.fixture(name="seen")
def _seen(monkeypatch: pytest.MonkeyPatch) -> list[Terms]:
    """What the planner is told."""
    seen: list[Terms] = []

    def plan(pod: Json, terms: Terms) -> Json:
        seen.append(terms)
        return pod

    monkeypatch.setattr(pod_plan, "plan", plan)
    return seen


async def test_what_is_kept_of_secrets_and_config_maps(seen: list[Terms]) -> None:
    kube = Reading()
    kube.secret("plain", {"good": b"correct-horse", "empty": b"", "odd": b"it's battery-staple"})
    kube.secret("sealed", {"a": b"x" * OVERHEAD, "b": b"x" * (OVERHEAD + 1)}, sealed=True)
    kube.put(MAPS, "m", data={"k": "v"}, binaryData={"b": "AA=="})
    await admit(kube, env_from("plain", "sealed", "none", maps=("m", "none")))
    (terms,) = seen
    assert terms.secrets == {
        "plain": Known(
            frozenset({"good", "empty", "odd"}), {"odd": "it has a single quote (')"}, empty=frozenset({"empty"})
        ),
        "sealed": Known(frozenset("ab"), None, empty=frozenset("a")),
    }
    assert terms.config_map_keys == {"m": frozenset("kb")}
    assert "horse" not in repr(terms) and "battery" not in repr(terms)


async def test_what_is_left_out(seen: list[Terms]) -> None:
    kube = Reading()
    kube.secret("plain", {"k": b"v"})
    kube.secret("sealed", {"k": b"x" * OVERHEAD}, sealed=True)
    left_out = {"exclude": {"names": ["plain", "sealed", "none"]}}
    snapshot = FixedSnapshot(policy(root_key(), authorization(secrets=left_out)))
    pod = env_from("plain", "sealed")
    await admission(kube, snapshot).admit(Review("1", "CREATE", "ns", "p", "u", False, pod, None))
    (terms,) = seen
    assert {name: known.left_out for name, known in terms.secrets.items()} == {"plain": True, "sealed": False}
    assert terms.left_out == {"plain", "none"}


async def test_a_pod_is_changed() -> None:
    kube = Reading()
    kube.secret("s", {"k": b"v"})
    changed = {operation["path"]: operation["value"] for operation in (await admit(kube, env_from("s"))).patch}
    assert list(changed) == ["/spec", "/metadata/annotations"]
    assert [e["name"] for e in changed["/spec"]["containers"][0]["env"]] == ["k"]
    assert ANNOTATION_NATIVE in changed["/metadata/annotations"]
    assert not (await admit(kube, env_from(maps=("m",)))).patch and kube.calls == [path("secrets", "s", namespace="ns")]


async def test_few_are_read_at_once() -> None:
    kube = Reading()
    names = [f"s{n}" for n in range(30)]
    for name in names:
        kube.secret(name, {"k": b"v"})
    await admit(kube, env_from(*names, maps=("m",)))
    assert kube.most == 8 and len(kube.calls) == 31


async def test_nothing_is_read_for_a_pod_that_names_too_many() -> None:
    kube = Reading()
    with pytest.raises(Refused, match="more than 256 Secrets and ConfigMaps"):
        await admit(kube, env_from(*(f"s{n}" for n in range(257))))
    with pytest.raises(Refused, match="more than 256 Secrets and ConfigMaps"):
        await admit(kube, env_from("s", maps=tuple(f"m{n}" for n in range(256))))
    assert kube.calls == []


async def test_keys_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "MAX_KEYS", 10)
    kube = Reading()
    kube.secret("s", {f"k{n}": b"v" for n in range(6)})
    kube.put(MAPS, "m", data={f"k{n}": "v" for n in range(4)})
    await admit(kube, env_from("s") | {"metadata": {}})
    kube.put(MAPS, "m", data={f"k{n}": "v" for n in range(5)})
    with pytest.raises(Refused, match="more than 10 keys together"):
        await admit(kube, env_from("s", maps=("m",)))


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (KubeUnavailable("try again"), KubeUnavailable),
        (Refused("forbidden"), KubeUnavailable),
        (PolicyNotFresh("x"), PolicyNotFresh),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
async def test_a_failure_ends_the_rest_and_is_told_as_it_is(failure: Exception, raised: type[Exception]) -> None:
    kube = Reading()
    kube.stuck = {path("secrets", "stuck", namespace="ns"), path("configmaps", "m", namespace="ns")}
    kube.errors[path("secrets", "s", namespace="ns")] = failure
    with pytest.raises(raised) as told:
        await admit(kube, env_from("s", "stuck", maps=("m",)))
    assert isinstance(told.value, KeyshredError) or told.value is failure
    assert (kube.under_way, kube.cancelled) == (0, 2)


async def test_a_value_that_is_no_base64() -> None:
    kube = Reading()
    kube.put(SECRETS, "s", data={"k": "?"})
    with pytest.raises(KeyshredError, match="not base64"):
        await admit(kube, env_from("s"))
