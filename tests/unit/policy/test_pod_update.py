"""Updates of pods that were changed, and ephemeral containers in them."""

import copy
import json
from collections.abc import Callable

import pytest

from keyshred.errors import Refused
from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy.pod_plan import Known, plan, plan_ephemeral, restore
from tests.unit.policy.pod_worlds import NOT_BACKED_UP, Json, file_ref, key_ref, pod, secret_ref, stored, terms

KNOWN = terms({"s": {"k", "l"}, "t": {"k"}, "o": Known(frozenset({"k"}), {}, left_out=True)})


def manifest() -> Json:
    return pod(
        initContainers=[{"name": "first", "env": [key_ref("F", "t", "k")]}],
        containers=[
            {
                "name": "main",
                "image": "app:1",
                "env": [{"name": "A", "value": "a"}, key_ref("E", "s", "k"), key_ref("L", "o", "k")],
                "envFrom": [secret_ref("s"), {"configMapRef": {"name": "m"}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }
        ],
        volumes=[{"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}, {"name": "w", "emptyDir": {}}],
    )


def main(whole: Json) -> Json:
    found: Json = whole["spec"]["containers"][0]
    return found


OLD = stored(plan(manifest(), KNOWN))


def both_sources(new: Json) -> None:
    new["spec"]["volumes"][0] |= manifest()["spec"]["volumes"][0]


def both_references(new: Json) -> None:
    merged = copy.deepcopy(main(OLD)["env"])
    own = next(n for n, e in enumerate(merged) if e["name"] == "E" and "valueFrom" in e)
    merged[own]["valueFrom"] |= key_ref("E", "s", "k")["valueFrom"]
    main(new)["env"] = merged


def native_first_and_ours_after_it(new: Json) -> None:
    main(new)["env"] = [*manifest()["spec"]["containers"][0]["env"], *main(OLD)["env"][:2], file_ref("E", "s/k", False)]
    main(new)["envFrom"] = manifest()["spec"]["containers"][0]["envFrom"]


def replaced(new: Json) -> None:
    new["spec"] = manifest()["spec"]
    new["metadata"] = {"name": "p"}


def without_annotations(new: Json) -> None:
    del new["metadata"]["annotations"]


def other_annotations(new: Json) -> None:
    new["metadata"]["annotations"] = {ANNOTATION_NATIVE: "{}", NOT_BACKED_UP: "v"}


@pytest.mark.parametrize(
    "change",
    [
        both_sources,
        both_references,
        native_first_and_ours_after_it,
        replaced,
        without_annotations,
        other_annotations,
    ],
)
def test_forms_that_clients_leave(change: Callable[[Json], None]) -> None:
    new = copy.deepcopy(OLD)
    change(new)
    assert restore(new, OLD) == OLD


def test_what_may_change_changes() -> None:
    new = manifest()
    main(new)["image"] = "app:2"
    new["metadata"]["labels"] = {"a": "b"}
    new["metadata"]["annotations"] = {NOT_BACKED_UP: "w", "x": "y"}
    expected = copy.deepcopy(OLD)
    main(expected)["image"] = "app:2"
    expected["metadata"]["labels"] = {"a": "b"}
    expected["metadata"]["annotations"] |= {NOT_BACKED_UP: "w,v,keyshred-env-source,keyshred-env", "x": "y"}
    assert restore(new, OLD) == expected


def other_secret(new: Json) -> None:
    main(new)["env"][1] = key_ref("E", "t", "k")


def other_value(new: Json) -> None:
    main(new)["env"][0]["value"] = "b"


def now_optional(new: Json) -> None:
    main(new)["env"][1]["valueFrom"]["secretKeyRef"]["optional"] = True


def one_more(new: Json) -> None:
    main(new)["env"].append(key_ref("M", "s", "l"))


def one_more_of_a_name_from_env_from(new: Json) -> None:
    main(new)["env"].append({"name": "k", "value": "mine"})


def one_less(new: Json) -> None:
    del main(new)["env"][1]


def not_from_the_secret(new: Json) -> None:
    del main(new)["envFrom"][0]


def other_file(new: Json) -> None:
    main(new)["env"][1] = file_ref("E", "t/k")


@pytest.mark.parametrize(
    "change",
    [
        other_secret,
        other_value,
        now_optional,
        one_more,
        one_more_of_a_name_from_env_from,
        one_less,
        not_from_the_secret,
        other_file,
    ],
)
def test_environments_that_really_differ_are_left(change: Callable[[Json], None]) -> None:
    new = manifest()
    change(new)
    restored = restore(new, OLD)
    assert main(restored)["env"] == main(new)["env"]
    assert main(restored)["envFrom"] == main(new)["envFrom"]
    assert restored["spec"]["volumes"] == OLD["spec"]["volumes"]


@pytest.mark.parametrize(
    "source", [{"secret": {"secretName": "t", "defaultMode": 420}}, {"secret": {"secretName": "s", "defaultMode": 256}}]
)
def test_volumes_that_really_differ_are_left(source: Json) -> None:
    new = manifest()
    new["spec"]["volumes"][0] = {"name": "v"} | source
    assert restore(new, OLD)["spec"]["volumes"][0] == {"name": "v"} | source


@pytest.mark.parametrize(
    "mounts",
    [
        [],
        [{"name": "w", "mountPath": "/v"}],
        [{"name": "v", "mountPath": "/other"}],
        [{"name": "v", "mountPath": "/v", "subPath": "k"}],
        [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}],
    ],
)
def test_mounts_that_really_differ_are_left(mounts: list[Json]) -> None:
    new = manifest()
    main(new)["volumeMounts"] = mounts
    assert main(restore(new, OLD)).get("volumeMounts") == mounts


def test_pods_that_were_not_changed_are_left() -> None:
    new = pod(volumes=[{"name": "v", "secret": {"secretName": "t"}}])
    for old in (pod(), pod(volumes=[{"name": "v", "secret": {"secretName": "s"}}])):
        assert restore(new, old) == new
    assert restore({"metadata": {}}, OLD) == {"metadata": {}}


def with_ephemeral(*new: Json) -> Json:
    whole = copy.deepcopy(OLD)
    whole["spec"]["ephemeralContainers"] = list(new)
    return whole


def test_an_ephemeral_container_has_what_the_pod_has() -> None:
    given = with_ephemeral(
        {
            "name": "debug",
            "env": [key_ref("X", "t", "k"), key_ref("L", "o", "k")],
            "envFrom": [secret_ref("s", "P_")],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}],
        }
    )
    before = copy.deepcopy(given)
    planned = plan_ephemeral(given, OLD, KNOWN)
    env = [
        *(file_ref("P_k", "s/k"), file_ref("P_l", "s/l")),
        *(file_ref("X", "t/k", False), key_ref("L", "o", "k")),
    ]
    mounts = [{"name": "v", "mountPath": "/v", "readOnly": True}, {"name": "w", "mountPath": "/w"}]
    assert planned["spec"]["ephemeralContainers"] == [{"name": "debug", "env": env, "volumeMounts": mounts}]
    assert given == before
    assert {k: v for k, v in planned["spec"].items() if k != "ephemeralContainers"} == OLD["spec"]
    assert planned["metadata"] == OLD["metadata"]
    assert plan_ephemeral(planned, planned, KNOWN) == planned


@pytest.mark.parametrize(
    ("container", "field"),
    [
        ({"env": [{"name": "A"}, key_ref("X", "t", "other")]}, "env[1].valueFrom.secretKeyRef"),
        ({"env": [key_ref("X", "u", "k", True)]}, "env[0].valueFrom.secretKeyRef"),
        ({"envFrom": [secret_ref("many")]}, "envFrom[0].secretRef"),
        ({"envFrom": [secret_ref("none")]}, "envFrom[0].secretRef"),
    ],
)
def test_an_ephemeral_container_has_nothing_more(container: Json, field: str) -> None:
    known = terms({**KNOWN.secrets, "many": {"k"}})
    given = with_ephemeral({"name": "debug"} | container)
    with pytest.raises(Refused, match="ephemeralContainers") as raised:
        plan_ephemeral(given, OLD, known)
    assert str(raised.value).startswith(f"spec.ephemeralContainers[0].{field}: ")
    # One that is there cannot be changed, nor refused.
    assert plan_ephemeral(given, given, known) == given


def test_an_ephemeral_container_in_a_pod_without_files() -> None:
    old = pod()
    new = pod(ephemeralContainers=[{"name": "debug", "env": [key_ref("X", "s", "k")]}])
    with pytest.raises(Refused, match="kubectl debug"):
        plan_ephemeral(new, old, KNOWN)
    harmless = pod(
        ephemeralContainers=[{"name": "debug", "env": [key_ref("X", "o", "k"), {"name": "A", "value": "a"}]}]
    )
    assert plan_ephemeral(harmless, old, KNOWN) == harmless
    assert plan_ephemeral({}, {}, KNOWN) == {}


def test_the_record_is_canonical() -> None:
    text = OLD["metadata"]["annotations"][ANNOTATION_NATIVE]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
