"""What becomes of a pod: environments and all that is for them, what is refused and why, and what is left as it is."""

import pytest

from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy.pod_plan import Known, plan, wanted, wanted_config_maps
from keyshred.policy.volumes import Variable, Variables, attributes
from tests.unit.policy.pod_worlds import (
    IMAGE,
    LEFT_OUT,
    NOT_BACKED_UP,
    SEALED,
    Json,
    empty,
    file_ref,
    held,
    key_ref,
    native,
    pod,
    refusal,
    secret_ref,
    terms,
    unfit,
    volume,
    with_env,
)


@pytest.mark.parametrize(
    ("optional", "key", "entries"),
    [
        (None, "k", [file_ref("E", "s/k", False)]),
        (True, "k", [file_ref("E", "s/k")]),
        (False, "empty", [empty("E"), file_ref("E", "s/empty")]),
        (True, "empty", [empty("E"), file_ref("E", "s/empty")]),
        # Nobody knows what it will be.
        (False, "gone", [empty("E"), file_ref("E", "s/gone")]),
        (True, "gone", [file_ref("E", "s/gone")]),
    ],
)
def test_variables(optional: bool | None, key: str, entries: list[Json]) -> None:
    before, after = {"name": "A", "value": "a"}, {"name": "Z", "value": "$(E)"}
    known = terms({"s": Known(frozenset({"k", "empty"}), None, empty=frozenset({"empty"}))})
    planned = plan(with_env(before, key_ref("E", "s", key, optional), after), known)
    assert planned["spec"]["containers"] == [{"name": "main", "env": [before, *entries, after]}]
    assert held(planned, "keyshred-env-source") == Variables((Variable("s", key, optional is True),))
    assert native(planned) == {"containers": {"main": {"env": [before, key_ref("E", "s", key, optional), after]}}}


def test_all_of_a_secret() -> None:
    explicit = {"name": "k", "value": "explicit"}
    config = {"configMapRef": {"name": "m"}, "prefix": "M_"}
    sources = (secret_ref("s"), config, secret_ref("t", "P_"), secret_ref("none", optional=True))
    planned = plan(with_env(explicit, sources=sources), terms({"s": {"l", "k"}, "t": {"k"}}, config_maps={"m": {"k"}}))
    files = [("k", "s/k"), ("l", "s/l"), ("P_k", "t/k")]
    env = [file_ref(name, path) for name, path in files]
    assert planned["spec"]["containers"] == [{"name": "main", "env": [*env, explicit], "envFrom": [config]}]
    assert native(planned) == {"containers": {"main": {"env": [explicit], "envFrom": list(sources)}}}


def test_the_later_secret_wins() -> None:
    planned = plan(with_env(sources=(secret_ref("s"), secret_ref("t"))), SEALED)
    paths = [e["valueFrom"]["fileKeyRef"]["path"] for e in planned["spec"]["containers"][0]["env"] if "valueFrom" in e]
    assert paths == ["s/l", "t/k"]


def test_a_secret_that_is_not_there_yet() -> None:
    said = refusal(with_env(sources=(secret_ref("u"),)), SEALED)
    assert said.startswith("spec.containers[0].envFrom[0].secretRef: Secret u does not exist")
    planned = plan(with_env(sources=(secret_ref("u", optional=True),)), SEALED)
    assert planned["spec"] == {"containers": [{"name": "main"}]}
    assert native(planned) == {"containers": {"main": {"envFrom": [secret_ref("u", optional=True)]}}}


def test_an_order_that_cannot_be_kept() -> None:
    known = terms({"s": {"k", "l"}}, config_maps={"m": {"k", "x"}})
    config: Json = {"configMapRef": {"name": "m"}}
    said = refusal(pod(initContainers=[{"name": "i", "envFrom": [secret_ref("s"), config]}]), known)
    assert said.startswith("spec.initContainers[0].envFrom[0].secretRef: a later source (ConfigMap m) overrides")
    assert "kept: k; put the secretRef after it" in said
    plan(with_env(sources=(config, secret_ref("s"))), known)
    plan(with_env(sources=(secret_ref("s"), config | {"prefix": "P_"})), known)
    plan(with_env(sources=(secret_ref("s"), {"configMapRef": {"name": "unknown"}})), known)
    # Natively the last one wins, and it is ours.
    plan(with_env(sources=(secret_ref("s"), config, secret_ref("s"))), known)


def test_a_secret_that_is_left_out_counts_as_a_config_map() -> None:
    known = terms({"s": {"k"}, "o": Known(frozenset({"k"}), {}, left_out=True)})
    assert "(Secret o)" in refusal(with_env(sources=(secret_ref("s"), secret_ref("o"))), known)
    planned = plan(with_env(sources=(secret_ref("o"), secret_ref("s"))), known)
    assert planned["spec"]["containers"][0]["envFrom"] == [secret_ref("o")]


@pytest.mark.parametrize("value", [b"it's me", b"a\r\nb", b"\xff", b"x" * 70000, b"a\0"])
def test_values_that_no_file_carries(value: bytes) -> None:
    known = terms({"s": Known(frozenset({"odd", "good"}), unfit({"odd": value, "good": b"v"}))})
    given = with_env(key_ref("A", "s", "good"), key_ref("B", "s", "odd"))
    said = refusal(given, known)
    assert said.startswith("spec.containers[0].env[1].valueFrom.secretKeyRef: the value of key odd of Secret s fits no")
    assert said.endswith("; mount it as a file") and "it's me" not in said and "xxx" not in said
    assert "key odd" in refusal(with_env(sources=(secret_ref("s"),)), known)
    plan(with_env(key_ref("A", "s", "good")), known)
    plan(volume(secret={"secretName": "s"}), known)


def test_volumes_and_init_container() -> None:
    given = with_env(
        key_ref("A", "t", "k", True),
        key_ref("B", "s", "l"),
        key_ref("C", "t", "k"),
        initContainers=[{"name": "i", "env": [key_ref("D", "s", "k", True)]}],
        volumes=[{"name": "x", "emptyDir": {}}],
        nodeSelector={"disk": "fast"},
    )
    given["metadata"]["annotations"] = {NOT_BACKED_UP: "x,y", "other": "kept"}
    planned = plan(given, SEALED)
    spec = planned["spec"]
    variables = Variables((Variable("s", "k", True), Variable("s", "l"), Variable("t", "k")))
    assert spec["volumes"] == [
        {"name": "x", "emptyDir": {}},
        {
            "name": "keyshred-env-source",
            "csi": {"driver": "csi.keyshred.dev", "volumeAttributes": attributes(variables)},
        },
        {"name": "keyshred-env", "emptyDir": {"medium": "Memory", "sizeLimit": "3Mi"}},
    ]
    assert spec["initContainers"][0] == {
        "name": "keyshred-env",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", "-RLf", "/keyshred/source/..data/.", "/keyshred/env/"],
        "resources": {},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "keyshred-env-source", "mountPath": "/keyshred/source", "readOnly": True},
            {"name": "keyshred-env", "mountPath": "/keyshred/env"},
        ],
    }
    assert [c["name"] for c in spec["initContainers"]] == ["keyshred-env", "i"]
    assert spec["nodeSelector"] == {"disk": "fast", "keyshred.dev/env-files": "true"}
    annotations = planned["metadata"]["annotations"]
    assert annotations[NOT_BACKED_UP] == "x,y,keyshred-env-source,keyshred-env" and annotations["other"] == "kept"


@pytest.mark.parametrize(
    ("of_pod", "of_containers", "expected"),
    [
        ({}, ({}, {}), {"runAsNonRoot": True}),
        ({"runAsUser": 5, "runAsGroup": 6}, ({}, {}), {"runAsUser": 5, "runAsGroup": 6, "runAsNonRoot": True}),
        ({"runAsUser": 5}, ({"runAsUser": 7}, {"runAsUser": 7}), {"runAsUser": 7, "runAsNonRoot": True}),
        ({"runAsUser": 0}, ({"runAsUser": 7}, {"runAsUser": 8}), {"runAsNonRoot": False}),
        ({}, ({"runAsUser": 7}, {}), {"runAsNonRoot": True}),
        ({}, ({"runAsUser": 0}, {"runAsUser": 0}), {"runAsUser": 0, "runAsNonRoot": False}),
        ({"runAsUser": 0}, ({}, {"runAsGroup": 3}), {"runAsUser": 0, "runAsNonRoot": False}),
    ],
)
def test_the_user_is_the_pods_own(of_pod: Json, of_containers: tuple[Json, Json], expected: Json) -> None:
    first, second = ({"name": n, "securityContext": c} for n, c in zip("ab", of_containers, strict=True))
    given = pod(containers=[first | {"env": [key_ref("A", "s", "k")]}, second], securityContext=of_pod)
    context = plan(given, SEALED)["spec"]["initContainers"][0]["securityContext"]
    assert {k: v for k, v in context.items() if k.startswith("runAs")} == expected


def test_a_seccomp_profile_of_the_pod_is_the_init_containers_too() -> None:
    given = with_env(key_ref("A", "s", "k"), securityContext={"seccompProfile": {"type": "Localhost"}})
    assert "seccompProfile" not in plan(given, SEALED)["spec"]["initContainers"][0]["securityContext"]


def test_resources_are_the_first_containers() -> None:
    resources = {
        "requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"},
        "limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "2Mi"},
        "claims": [{"name": "gpu"}],
    }
    given = with_env(key_ref("A", "s", "k"))
    given["spec"]["containers"][0]["resources"] = resources
    given["spec"]["containers"].append({"name": "second", "resources": {"requests": {"cpu": "9"}}})
    assert plan(given, SEALED)["spec"]["initContainers"][0]["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi"},
        "limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
    }


def test_room_for_what_secrets_can_hold() -> None:
    known = terms({"s": {f"k{n:04}" for n in range(4096)}})
    volumes = plan(with_env(sources=(secret_ref("s"),)), known)["spec"]["volumes"]
    assert volumes[1]["emptyDir"]["sizeLimit"] == "513Mi"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"volumes": [{"name": "keyshred-env", "emptyDir": {"medium": "Memory"}}]}, "spec.volumes[0].name"),
        ({"volumes": [{"name": "keyshred-env-source", "configMap": {"name": "c"}}]}, "spec.volumes[0].name"),
        ({"initContainers": [{"name": "keyshred-env"}]}, "spec.initContainers[0].name"),
        ({"nodeSelector": {"keyshred.dev/env-files": "false"}}, "spec.nodeSelector[keyshred.dev/env-files]"),
    ],
)
def test_names_that_are_taken(spec: Json, field: str) -> None:
    given = with_env(key_ref("A", "s", "k"), **spec)
    assert refusal(given, SEALED).startswith(f"{field}: ")
    without = pod(**spec)
    assert plan(without, SEALED) == without


@pytest.mark.parametrize("spec", [{"os": {"name": "windows"}}, {"nodeSelector": {"kubernetes.io/os": "windows"}}])
def test_windows(spec: Json) -> None:
    given = with_env(key_ref("A", "s", "k"), **spec)
    assert refusal(given, SEALED).startswith("spec.containers[0].env[0].valueFrom.secretKeyRef: ")
    given = volume(secret={"secretName": "s"})
    given["spec"] |= spec
    assert refusal(given, SEALED).startswith("spec.volumes[0].secret: keyshred has no driver for Windows")
    assert plan(given, LEFT_OUT) == given
    assert plan(pod(**spec), SEALED) == pod(**spec)


def test_mirror_pods_are_left() -> None:
    given = volume(secret={"secretName": "s"})
    given["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}
    assert plan(given, SEALED) == given


def test_what_must_be_known() -> None:
    given = pod(
        volumes=[
            {"name": "v", "secret": {"secretName": "a"}},
            {"name": "w", "projected": {"sources": [{"secret": {"name": "b"}}, {"configMap": {"name": "x"}}]}},
        ],
        imagePullSecrets=[{"name": "pull"}],
        initContainers=[{"name": "i", "env": [key_ref("A", "c", "k")], "envFrom": [{"configMapRef": {"name": "y"}}]}],
        containers=[{"name": "m", "envFrom": [secret_ref("d"), {"configMapRef": {"name": "z"}}]}],
        ephemeralContainers=[{"name": "e", "env": [key_ref("A", "e", "k")]}],
    )
    assert wanted(given) == {"a", "b", "c", "d", "e"}
    assert wanted_config_maps(given) == {"z"}
    assert wanted({"spec": None}) == wanted({}) == wanted_config_maps({}) == frozenset()


def test_what_was_replaced_must_be_known_to_add_to_it() -> None:
    known = terms({"s": {"k"}, "t": {"k"}}, config_maps={"m": {"x"}})
    planned = plan(with_env(sources=(secret_ref("s"), {"configMapRef": {"name": "m"}})), known)
    assert wanted(planned) == wanted_config_maps(planned) == frozenset()
    planned["spec"]["containers"][0]["envFrom"].append(secret_ref("t"))
    assert wanted(planned) == {"s", "t"}
    assert wanted_config_maps(planned) == {"m"}
    env = plan(planned, known)["spec"]["containers"][0]["env"]
    assert env == [file_ref("k", "t/k")]


def test_the_init_container_stays_first_and_up_to_date() -> None:
    planned = plan(with_env(key_ref("A", "s", "k")), SEALED)
    planned["spec"]["initContainers"][0] |= {"image": "old", "terminationMessagePath": "/dev/termination-log"}
    planned["spec"]["initContainers"].insert(0, {"name": "injected"})
    first, second = plan(planned, SEALED)["spec"]["initContainers"]
    assert first["image"] == IMAGE and "terminationMessagePath" in first and second == {"name": "injected"}


@pytest.mark.parametrize(
    "record",
    [
        "",
        "no json",
        "[]",
        "null",
        "[" * 5000,
        '{"volumes": [], "containers": {"main": []}}',
        '{"volumes": {"v": 1, "w": {}}, "containers": {"main": {"env": 1, "envFrom": ["x"], "mounts": {}}}}',
        '{"containers": {"main": {"env": [{"valueFrom": 1}, {"valueFrom": {"secretKeyRef": 1}}], "envFrom": [{}]}}}',
        '{"containers": {"main": {"envFrom": [{"secretRef": {"name": "t"}}], "env": [{"name": "T"}]}}}',
        '{"containers": {"main": {"env": [{"name": ["A"], "valueFrom": {"secretKeyRef": {"name": "s", "key":"k"}}}]}}}',
        '{"containers": {"main": {"env": [null, {}, 1], "envFrom": [null, {"secretRef": {"name": 1}, "prefix": 1}]}}}',
        '{"containers": {"main": {"env": [{"name": "\\ud800"}]}}}',
    ],
)
def test_a_record_that_somebody_else_wrote(record: str) -> None:
    given = with_env(key_ref("A", "s", "k"), sources=(secret_ref("s"),))
    expected = plan(given, SEALED)
    given["metadata"]["annotations"] = {ANNOTATION_NATIVE: record}
    assert wanted(given) == {"s"}
    planned = plan(given, SEALED)
    assert planned["spec"] == expected["spec"]
    assert native(planned)["containers"]["main"] == native(expected)["containers"]["main"]


def test_pods_without_a_spec_are_left() -> None:
    assert plan({"metadata": {}}, SEALED) == {"metadata": {}}
