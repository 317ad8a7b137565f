"""Whatever the pod: planned once is planned, nothing native is left, and containers see what they would have seen."""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from hypothesis import assume, event, given
from hypothesis import strategies as st

from keyshred.errors import Refused
from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy import pod_files, pod_native
from keyshred.policy.pod_plan import plan, plan_ephemeral, restore, wanted, wanted_config_maps
from keyshred.policy.pods import native_secrets, own_volumes, referred_secrets
from keyshred.policy.volumes import Files, Variables
from tests.unit.policy.pod_worlds import (
    Fails,
    Json,
    World,
    containers,
    environment,
    files,
    json_values,
    junk,
    key_ref,
    pods,
    secret_ref,
    spoiled,
    stored,
    unhurried,
    worlds,
)


def planned_or_not(pod: Json, world: World) -> Json:
    """Refusals have tests of their own."""
    try:
        return plan(pod, world.terms())
    except Refused:
        assume(False)
        raise


@unhurried
@given(pods, worlds)
def test_planned_once_is_planned(pod: Json, world: World) -> None:
    before = copy.deepcopy(pod)
    planned = planned_or_not(pod, world)
    assert pod == before
    assert plan(planned, world.terms()) == planned
    assert plan(stored(planned), world.terms()) == stored(planned)


@unhurried
@given(pods, worlds)
def test_nothing_native_is_left(pod: Json, world: World) -> None:
    planned = planned_or_not(pod, world)
    terms = world.terms()
    left = {name for name in native_secrets(planned) if not terms.keeps(name)}
    assert not left
    assert wanted(pod) == native_secrets(pod)
    event(f"annotated: {ANNOTATION_NATIVE in planned['metadata'].get('annotations', {})}")


@unhurried
@given(pods, worlds)
def test_environments_are_the_kubelets_own(pod: Json, world: World) -> None:
    planned = planned_or_not(pod, world)
    mounted: Mapping[str, bytes] | None
    try:
        mounted = files(planned, world)
    except Fails:
        mounted = None
    natives = [_seen(c, world, {}) for c in _containers(pod)]
    if mounted is None:
        assert None in natives  # the pod waits as a whole, where Kubernetes would let one container wait
    else:
        assert [_seen(c, world, mounted) for c in _containers(planned) if c["name"] != "keyshred-env"] == natives
    event(f"starts: {mounted is not None}")


def _containers(pod: Json) -> list[Json]:
    return [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]


def _seen(container: Json, world: World, mounted: Mapping[str, bytes]) -> dict[str, str] | None:
    try:
        return environment(container, world, mounted)
    except Fails:
        return None


@unhurried
@given(pods, worlds)
def test_mounts_and_volumes_keep_their_places(pod: Json, world: World) -> None:
    planned = planned_or_not(pod, world)
    for before, after in zip(pod["spec"]["volumes"], planned["spec"]["volumes"], strict=False):
        assert before["name"] == after["name"]
        assert before == after or isinstance(pod_files.content(after), Files)
    ours = set(pod_native.read(planned).volumes)
    now = {c["name"]: c for c in _containers(planned)}
    for container in _containers(pod):
        mounts = container.get("volumeMounts", [])
        expected = [m | ({"readOnly": True} if m["name"] in ours else {}) for m in mounts]
        assert now[container["name"]].get("volumeMounts", []) == expected


@unhurried
@given(pods, worlds, containers("injected"), st.booleans())
def test_what_is_injected_later_is_as_if_it_had_been_there(pod: Json, world: World, injected: Json, more: bool) -> None:
    def inject(whole: Json) -> Json:
        changed = copy.deepcopy(whole)
        changed["spec"]["containers"].append(copy.deepcopy(injected))
        if more:
            main = changed["spec"]["containers"][0]
            main.setdefault("envFrom", []).append(secret_ref("a", "Z_", True))
            main.setdefault("env", []).append(key_ref("LATE", "b", "K", True))
        return changed

    # An envFrom that has gone without a trace is not found again.
    assume(not more or all(world.secrets.get(name) for name in ("a", "b", "c", "d")))
    pod = stored(pod)  # what a webhook is sent
    at_once = planned_or_not(inject(pod), world)
    later = plan(inject(stored(planned_or_not(pod, world))), world.terms())
    assert _without_init(later) == _without_init(stored(at_once))
    assert pod_native.read(later) == pod_native.read(at_once)
    assert plan(later, world.terms()) == later
    assert _variables(later) >= _variables(at_once)


def _without_init(pod: Json) -> Any:
    spec = stored(pod)["spec"]
    inits = [c for c in spec["initContainers"] if c["name"] != "keyshred-env"]
    ours = ("keyshred-env", "keyshred-env-source")
    return spec["containers"], inits, [v for v in spec["volumes"] if v["name"] not in ours], spec.get("nodeSelector")


def _variables(pod: Json) -> set[tuple[str, str]]:
    held = [pod_files.content(v) for v in pod["spec"]["volumes"]]
    return {(v.secret, v.key) for h in held if isinstance(h, Variables) for v in h.values}


@unhurried
@given(pods, worlds)
def test_an_update_with_the_native_form_changes_nothing(pod: Json, world: World) -> None:
    old = stored(planned_or_not(pod, world))
    assert restore(old, old) == old
    new = stored(pod)
    before = copy.deepcopy(new)
    assert restore(new, old) == old
    assert new == before


@unhurried
@given(pods, worlds)
def test_an_apply_that_merges_by_names_changes_nothing(pod: Json, world: World) -> None:
    old = stored(planned_or_not(pod, world))
    assume(all(len({e["name"] for e in c.get("env", ())}) == len(c.get("env", ())) for c in _containers(pod)))
    assert restore(_merged(old, stored(pod)), old) == old


def _merged(old: Json, manifest: Json) -> Json:
    """What a strategic merge patch leaves: lists with keys merged by the first that has the key, others replaced."""
    new = copy.deepcopy(old)
    volumes = {v["name"]: v for v in manifest["spec"]["volumes"]}
    new["spec"]["volumes"] = [volumes.get(v["name"], v) for v in new["spec"]["volumes"]]
    now = {c["name"]: c for c in _containers(new)}
    for container in _containers(manifest):
        live = now[container["name"]]
        if "envFrom" in container:
            live["envFrom"] = container["envFrom"]
        for entry in container.get("env", ()):
            target = next(e for e in live["env"] if e["name"] == entry["name"])
            if "valueFrom" in entry:
                target["valueFrom"] = target.get("valueFrom", {}) | entry["valueFrom"]
            elif "value" in entry:
                target["value"] = entry["value"]
    return new


def read_by_all(pod: Any, world: World) -> None:
    """Whoever reads pods says of this one what it is, or refuses it."""
    terms = world.terms()
    attempts: list[Callable[[], Any]] = [
        lambda: wanted(pod),
        lambda: wanted_config_maps(pod),
        lambda: plan(pod, terms),
        lambda: plan_ephemeral(pod, pod, terms),
    ]
    for attempt in attempts:
        try:
            attempt()
        except Refused:
            event("refused")
    restore(pod, pod)
    assert native_secrets(pod) <= referred_secrets(pod)
    list(own_volumes(pod))
    spec = pod["spec"] if isinstance(pod["spec"], dict) else {}
    for volume in spec["volumes"] if isinstance(spec.get("volumes"), list) else ():
        list(pod_files.native_names(volume))
        try:
            pod_files.files(volume, "spec.volumes[0]", terms)
        except Refused:
            event("refused")


@unhurried
@given(pods, worlds, st.data())
def test_a_pod_that_is_none(pod: Json, world: World, data: st.DataObject) -> None:
    pod["spec"]["ephemeralContainers"] = [{"name": "debug", "env": [key_ref("K", "a", "K")]}]
    read_by_all({"metadata": {}, "spec": {}} | data.draw(spoiled(pod).filter(lambda p: isinstance(p, dict))), world)
    planned = planned_or_not(pod, world)
    read_by_all({"metadata": {}, "spec": {}} | data.draw(spoiled(planned).filter(lambda p: isinstance(p, dict))), world)


@unhurried
@given(pods, worlds, st.data())
def test_a_record_of_anybody(pod: Json, world: World, data: st.DataObject) -> None:
    planned = planned_or_not(pod, world)
    record = json.loads(planned["metadata"].get("annotations", {}).get(ANNOTATION_NATIVE, "{}"))
    text = data.draw((json_values | spoiled(record)).map(json.dumps) | st.text())
    for given_pod in (pod, planned):
        hostile = given_pod | {"metadata": {"name": "p", "annotations": {ANNOTATION_NATIVE: text}}}
        read_by_all(hostile, world)
        restore(pod, hostile)
        restore(hostile, planned)
        try:
            after = plan(hostile, world.terms())
        except Refused:
            continue
        assert not {name for name in native_secrets(after) if not world.terms().keeps(name)}
        orjson.dumps(after)
    event(f"read: {bool(pod_native.read(hostile).text())}")


@unhurried
@given(pods, worlds, st.data())
def test_attributes_of_anybody(pod: Json, world: World, data: st.DataObject) -> None:
    planned = planned_or_not(pod, world)
    ours = [v for v in planned["spec"]["volumes"] if "csi" in v]
    assume(ours)
    attributes = data.draw(st.sampled_from(ours))["csi"]["volumeAttributes"]
    for name, text in list(attributes.items()):
        attributes[name] = data.draw((json_values | spoiled(json.loads(text))).map(json.dumps) | st.text() | junk)
    read_by_all(planned, world)
