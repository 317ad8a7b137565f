"""What becomes of volumes of Secrets and of their mounts, what is refused and why, and what is left as it is."""

import pytest

from keyshred.policy.pod_plan import Terms, plan, wanted
from keyshred.policy.volumes import Files, Item, Source, attributes
from tests.unit.policy.pod_worlds import (
    LEFT_OUT,
    NOT_BACKED_UP,
    PLAIN,
    SEALED,
    Json,
    held,
    key_ref,
    native,
    pod,
    refusal,
    secret_ref,
    terms,
    volume,
)


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ({"secret": {"secretName": "s"}}, Files((Source("s"),))),
        ({"secret": {"secretName": "s", "defaultMode": 0}}, Files((Source("s"),), 0)),
        (
            {
                "secret": {
                    "secretName": "s",
                    "optional": True,
                    "defaultMode": 0o400,
                    "items": [{"key": "k", "path": "a/b", "mode": 0o600}, {"key": "l", "path": "l"}],
                }
            },
            Files((Source("s", (Item("k", "a/b", 0o600), Item("l", "l")), True),), 0o400),
        ),
        (
            {"projected": {"defaultMode": 0o440, "sources": [{"secret": {"name": "s", "items": []}}]}},
            Files((Source("s"),), 0o440),
        ),
        (
            {
                "projected": {
                    "sources": [
                        {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                        {"secret": {"name": "t", "optional": True}},
                    ]
                }
            },
            Files((Source("s", (Item("k", "p"),)), Source("t", None, True))),
        ),
    ],
)
@pytest.mark.parametrize("known", [SEALED, PLAIN, terms()], ids=["sealed", "plain", "absent"])
def test_volumes_of_secrets(source: Json, files: Files, known: Terms) -> None:
    planned = plan(volume(**source), known)
    assert planned["spec"]["volumes"] == [
        {"name": "v", "csi": {"driver": "csi.keyshred.dev", "volumeAttributes": attributes(files)}}
    ]
    assert native(planned) == {"volumes": {"v": source}}
    assert planned["metadata"]["annotations"][NOT_BACKED_UP] == "v"
    assert "initContainers" not in planned["spec"] and "nodeSelector" not in planned["spec"]


@pytest.mark.parametrize(
    "source",
    [
        {"configMap": {"name": "s"}},
        {"emptyDir": {}},
        {"projected": {"sources": [{"configMap": {"name": "s"}}, {"serviceAccountToken": {"path": "token"}}]}},
        {"csi": {"driver": "other", "volumeAttributes": {"a": "b"}}},
        {"csi": {"driver": "csi.keyshred.dev", "volumeAttributes": attributes(Files((Source("s"),)))}},
    ],
)
def test_other_volumes_are_left(source: Json) -> None:
    given = volume(**source)
    assert plan(given, SEALED) == given


def test_secrets_that_are_left_out_stay_native() -> None:
    sources = [{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}]
    given = pod(
        volumes=[{"name": "v", "secret": {"secretName": "s"}}, {"name": "w", "projected": {"sources": sources}}],
        containers=[{"name": "c", "env": [key_ref("K", "s", "k")], "envFrom": [secret_ref("s")]}],
    )
    assert plan(given, LEFT_OUT) == given
    assert plan(given, terms(left_out=frozenset({"s"}))) == given


def test_one_volume_of_several_secrets_is_all_ours() -> None:
    known = terms({"t": {"k"}}, frozenset({"s"}))
    planned = plan(volume(projected={"sources": [{"secret": {"name": "s"}}, {"secret": {"name": "t"}}]}), known)
    assert held(planned) == Files((Source("s"), Source("t")))


def test_a_mixed_volume_is_refused() -> None:
    given = volume(projected={"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]})
    said = refusal(given, SEALED)
    assert said.startswith("spec.volumes[0].projected.sources: ") and "two volumes" in said and "subPath" in said


@pytest.mark.parametrize(
    ("secret", "field"),
    [
        ({"items": [{"key": "k", "path": "../up"}]}, "spec.volumes[0].secret.items[0].path"),
        ({"items": [{"key": "k", "path": "p", "mode": 0o1777}]}, "spec.volumes[0].secret.items[0]"),
        ({"defaultMode": -1}, "spec.volumes[0]"),
        ({"defaultMode": True}, "spec.volumes[0]"),
        ({"defaultMode": "0644"}, "spec.volumes[0]"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(secret: Json, field: str) -> None:
    assert refusal(volume(secret={"secretName": "s"} | secret), SEALED).startswith(f"{field}: ")


def test_a_reference_without_a_name_is_kubernetes_own_to_refuse() -> None:
    given = pod(
        volumes=[{"name": "v", "secret": {}}, {"name": "w", "projected": {"sources": [{"secret": {}}]}}],
        containers=[{"name": "c", "env": [key_ref("K", "", "k"), key_ref("L", "s", "")], "envFrom": [secret_ref("")]}],
    )
    assert plan(given, SEALED) == given


def test_mounts_become_read_only_and_keep_the_rest() -> None:
    mounts: list[Json] = [
        {"name": "v", "mountPath": "/a", "subPath": "k", "mountPropagation": "None"},
        {"name": "v", "mountPath": "/b", "readOnly": True, "recursiveReadOnly": "Enabled"},
        {"name": "other", "mountPath": "/c"},
    ]
    given = pod(
        volumes=[{"name": "v", "secret": {"secretName": "s"}}, {"name": "other", "emptyDir": {}}],
        initContainers=[{"name": "i", "volumeMounts": mounts[:1]}],
        containers=[{"name": "c", "volumeMounts": mounts}, {"name": "d", "volumeMounts": mounts[1:]}],
    )
    planned = plan(given, SEALED)
    first = {"name": "v", "mountPath": "/a", "subPath": "k", "mountPropagation": "None", "readOnly": True}
    assert planned["spec"]["initContainers"] == [{"name": "i", "volumeMounts": [first]}]
    assert [c["volumeMounts"] for c in planned["spec"]["containers"]] == [[first, *mounts[1:]], mounts[1:]]
    assert native(planned)["containers"] == {"i": {"mounts": mounts[:1]}, "c": {"mounts": mounts}}


def test_directories_for_what_is_mounted_below() -> None:
    def mount(name: str, path: str) -> Json:
        return {"name": name, "mountPath": path}

    below = [mount("e", "/s/in/deeper"), mount("e", "/s/in"), mount("e", "/s/in-two/x/"), mount("e", "/sx")]
    given = pod(
        volumes=[{"name": "v", "secret": {"secretName": "s"}}, {"name": "e", "emptyDir": {}}],
        containers=[
            {"name": "c", "volumeMounts": [mount("v", "/s/"), *below]},
            {"name": "d", "volumeMounts": [mount("v", "/t"), mount("e", "/t/other"), mount("e", "/t/..odd")]},
        ],
    )
    planned = plan(given, SEALED)
    assert held(planned) == Files((Source("s"),), nested=("in", "in-two/x", "other"))
    planned["spec"]["containers"].append({"name": "z", "volumeMounts": [mount("v", "/z"), mount("e", "/z/late")]})
    assert held(plan(planned, SEALED)) == Files((Source("s"),), nested=("in", "in-two/x", "late", "other"))


_ELSEWHERE: list[tuple[Json, str]] = [
    ({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}, "csi.nodePublishSecretRef.name"),
    ({"azureFile": {"secretName": "s"}}, "azureFile.secretName"),
    *(
        ({kind: {"secretRef": {"name": "s"}}}, f"{kind}.secretRef.name")
        for kind in ("flexVolume", "iscsi", "rbd", "cephfs", "scaleIO", "storageos", "cinder")
    ),
]


@pytest.mark.parametrize(("source", "field"), _ELSEWHERE, ids=[f for _, f in _ELSEWHERE])
def test_secrets_that_a_driver_reads(source: Json, field: str) -> None:
    given = volume(**source)
    for known in (PLAIN, LEFT_OUT, terms(), terms(left_out=frozenset({"s"}))):
        assert plan(given, known) == given
    said = refusal(given, SEALED)
    assert said.startswith(f"spec.volumes[0].{field}: Secret s is sealed") and "secrets.exclude.names" in said
    assert wanted(given) == {"s"}
