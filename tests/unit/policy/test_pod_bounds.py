"""How much of a pod is planned for. What would take minutes were it not refused, or not found by index, is no more."""

from collections.abc import Callable
from typing import Any

import pytest

from keyshred.errors import Refused
from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy.pod_bounds import MAX_NAMED, MAX_PARTS, MAX_RECORD, MAX_VARIABLES
from keyshred.policy.pod_plan import Known, plan, plan_ephemeral, restore, wanted, wanted_config_maps
from keyshred.policy.pods import native_secrets, own_volumes, referred_secrets
from keyshred.policy.volumes import (
    ATTRIBUTE_FILES,
    DRIVER,
    MAX_SECRETS,
    Content,
    Files,
    Item,
    Source,
    Variable,
    Variables,
    attributes,
)
from tests.unit.policy.pod_worlds import (
    SEALED,
    Json,
    file_ref,
    held,
    key_ref,
    pod,
    refusal,
    secret_ref,
    stored,
    terms,
    volume,
    with_env,
)

MANY = terms({"s": {f"k{n:04}" for n in range(MAX_VARIABLES)}})


def own(name: str, content: Content | Json) -> Json:
    texts = content if isinstance(content, dict) else attributes(content)
    return {"name": name, "csi": {"driver": DRIVER, "volumeAttributes": texts}}


def literals(count: int) -> list[Json]:
    return [{"name": f"L{n}", "value": "x"} for n in range(count)]


def items(count: int) -> Json:
    return {"secretName": "s", "items": [{"key": "k", "path": f"p{n}"} for n in range(count)]}


def mount(name: str, path: str) -> Json:
    return {"name": name, "mountPath": path}


def recorded(text: str, given: Json) -> Json:
    return given | {"metadata": {"name": "p", "annotations": {ANNOTATION_NATIVE: text}}}


TOO_LARGE: dict[str, Json] = {
    "variables": with_env(key_ref("A", "s", "k"), *literals(MAX_PARTS)),
    "sources": with_env(sources=tuple(secret_ref("s") for _ in range(MAX_PARTS))),
    "containers": pod(
        containers=[{"name": f"c{n}", "env": [key_ref("A", "s", "k")]} for n in range(MAX_PARTS // 2 + 1)]
    ),
    "mounts": pod(
        containers=[{"name": "c", "volumeMounts": [mount("v", f"/{n}") for n in range(MAX_PARTS)]}],
        volumes=[{"name": "v", "secret": {"secretName": "s"}}],
    ),
    "items": volume(secret=items(MAX_PARTS)),
    "items of several volumes": pod(volumes=[{"name": f"v{n}", "secret": items(63)} for n in range(64)]),
    "volumes": pod(volumes=[{"name": f"v{n}", "secret": {"secretName": "s"}} for n in range(MAX_PARTS // 2 + 1)]),
    "what is ours": pod(volumes=[own(f"v{n}", Files((Source("s"),) * 1000)) for n in range(5)]),
    "values that are ours": pod(volumes=[own(f"v{n}", Variables((Variable("s", "k"),) * 1000)) for n in range(5)]),
    "directories": pod(volumes=[own(f"v{n}", Files((Source("s"),), nested=("d",) * 1000)) for n in range(5)]),
    "variables that are ours": with_env(key_ref("A", "s", "k"), *(file_ref("B", "s/k") for _ in range(MAX_PARTS + 1))),
    "a record": recorded(" " * MAX_RECORD + "{}", pod()),
}
ATTEMPTS: list[Callable[[Json], Any]] = [
    wanted,
    wanted_config_maps,
    lambda given: plan(given, SEALED),
    lambda given: plan_ephemeral(given, given, SEALED),
]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=["wanted", "wanted_config_maps", "plan", "plan_ephemeral"])
@pytest.mark.parametrize("given", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_a_pod_that_is_too_large(given: Json, attempt: Callable[[Json], Any]) -> None:
    with pytest.raises(Refused, match=r"^(spec|metadata)\S*: .* more than .*; "):
        attempt(given)
    # It runs, and nothing of it can be put back.
    assert restore(given, given) == given


@pytest.mark.parametrize(
    "given",
    [
        with_env(*literals(10 * MAX_PARTS)),
        with_env(sources=tuple({"configMapRef": {"name": f"m{n}"}} for n in range(2 * MAX_PARTS))),
        pod(
            volumes=[{"name": f"v{n}", "emptyDir": {}} for n in range(2 * MAX_PARTS)], imagePullSecrets=[{"name": "s"}]
        ),
        pod(volumes=[{"name": "v", "configMap": {"items": items(2 * MAX_PARTS)["items"]}}]),
    ],
    ids=["variables", "sources", "volumes", "items"],
)
def test_a_pod_without_secrets_may_be_of_any_size(given: Json) -> None:
    assert wanted(given) == wanted_config_maps(given) == frozenset()
    assert plan(given, SEALED) == plan_ephemeral(given, given, SEALED) == restore(given, given) == given


def test_what_fits_is_planned_and_put_back() -> None:
    """All that is looked for among all else, at once."""
    below = [mount("e", f"/v/{n}") for n in range(500)]
    sources = (secret_ref("s"), *({"configMapRef": {"name": f"m{n}"}, "prefix": "M_"} for n in range(60)))
    given = stored(
        pod(
            containers=[{"name": "main", "env": literals(400), "envFrom": list(sources)}]
            + [{"name": f"c{n}", "volumeMounts": [mount(f"v{n}", "/v"), *below[:2]]} for n in range(500)]
            + [{"name": "deep", "volumeMounts": [mount("v0", "/v"), *below]}],
            volumes=[{"name": f"v{n}", "secret": {"secretName": "s"}} for n in range(300)] + [{"name": "e"}],
        )
    )
    known = terms(dict(MANY.secrets), config_maps={f"m{n}": {f"k{n}" for n in range(4096)} for n in range(60)})
    planned = stored(plan(given, known))
    assert len(planned["spec"]["containers"][0]["env"]) == 400 + MAX_VARIABLES
    assert len(held(planned, "v0").nested) == 500 and held(planned, "v1").nested == ("0", "1")
    assert plan(planned, known) == planned
    assert restore(given, planned) == restore(planned, planned) == planned
    assert len(own_volumes_of(planned)) == 301


def own_volumes_of(given: Json) -> list[str]:
    return [name for name, _ in own_volumes(given)]


@pytest.mark.parametrize("names", [1, 1000])
def test_many_variables_of_one_name_or_of_several(names: int) -> None:
    def given(env: list[Json]) -> Json:
        return pod(containers=[{"name": "main", "env": env}])

    entries = [key_ref(f"V{n % names}", "s", f"k{n:04}") for n in range(1900)]
    planned = plan(given(entries), MANY)
    assert [e["name"] for e in planned["spec"]["containers"][0]["env"]] == [e["name"] for e in entries]
    assert restore(given(entries), planned) == planned
    assert restore(given(entries[1:]), planned)["spec"]["containers"][0]["env"] == entries[1:]
    late = key_ref("LATE", "s", "k0000")
    at_once = plan(given([*entries, late]), MANY)
    planned["spec"]["containers"][0]["env"].append(late)
    assert plan(planned, MANY)["spec"]["containers"] == at_once["spec"]["containers"]


def test_a_secret_in_many_sources() -> None:
    """5 kB, of which the environment would have 409,600 variables."""
    said = refusal(with_env(sources=tuple(secret_ref("s", f"P{n}_") for n in range(100))), MANY)
    assert said.startswith(
        "spec.containers[0].envFrom[1].secretRef: the pod has more than 4,096 variables from Secrets"
    )


def test_variables_are_counted_across_containers() -> None:
    def container(name: str, **more: Any) -> Json:
        return {"name": name} | more

    whole = container("a", envFrom=[secret_ref("s")])
    one = container("b", env=[key_ref("B", "s", "k0000")])
    said = refusal(pod(containers=[whole, one]), MANY)
    assert said.startswith("spec.containers[1].env[0].valueFrom.secretKeyRef: the pod has more than 4,096 variables")
    planned = plan(pod(containers=[whole]), MANY)
    planned["spec"]["containers"].append(one)
    assert "4,096 variables" in refusal(planned, MANY)
    old = plan(pod(containers=[whole]), MANY)
    new = old | {"spec": old["spec"] | {"ephemeralContainers": [one]}}
    with pytest.raises(Refused, match="4,096 variables"):
        plan_ephemeral(new, old, MANY)


def test_a_prefix_counts_as_often_as_it_is_used() -> None:
    said = refusal(with_env(sources=(secret_ref("s", "P" * 100_000),)), MANY)
    assert said.startswith("spec.containers[0].envFrom[0].secretRef: the prefix makes the names")
    plan(with_env(sources=(secret_ref("s", "P" * 60),)), MANY)


def test_sources_after_many_variables() -> None:
    config: Json = {"configMapRef": {"name": "m"}}
    known = terms(dict(MANY.secrets), config_maps={"m": {"x"}})
    said = refusal(with_env(sources=(secret_ref("s"), *[config] * 65)), known)
    assert said.startswith("spec.containers[0].envFrom[65]: which source a variable comes from takes too long")
    plan(with_env(sources=(secret_ref("s"), *[config] * 64)), known)
    plan(with_env(sources=(*[config] * 3000, secret_ref("s"))), known)


def test_a_message_names_some() -> None:
    given = with_env(sources=(secret_ref("s"), {"configMapRef": {"name": "m"}}))
    said = refusal(given, terms(dict(MANY.secrets), config_maps={"m": set(MANY.secrets["s"].keys)}))
    assert "k0000, k0001, " in said and "k0009 and 4086 more; put" in said


def test_secrets_of_one_volume() -> None:
    def projected(count: int) -> Json:
        return volume(projected={"sources": [{"secret": {"name": f"s{n}"}} for n in range(count)]})

    assert len(held(plan(projected(MAX_SECRETS), terms())).sources) == MAX_SECRETS
    said = refusal(projected(MAX_SECRETS + 1), terms())
    assert said.startswith("spec.volumes[0]: more than 64 Secrets") and "make several volumes" in said


def test_secrets_of_environments() -> None:
    def given(count: int) -> Json:
        return with_env(*(key_ref(f"V{n}", f"s{n}", "k") for n in range(count)))

    assert len(held(plan(given(MAX_SECRETS), terms()), "keyshred-env-source").values) == MAX_SECRETS
    said = refusal(given(MAX_SECRETS + 1), terms())
    assert said.startswith("spec.containers: more than 64 Secrets") and "mount some of the Secrets as files" in said


def test_the_text_of_a_volume() -> None:
    long = [{"key": "k", "path": f"{n:04}" + "x" * 200} for n in range(2000)]
    said = refusal(volume(secret={"secretName": "s", "items": long}), SEALED)
    assert said.startswith("spec.volumes[0]: more than 256 KiB of volumeAttributes")


def test_directories_that_one_mount_has_many_times() -> None:
    mounts = [mount(f"v{n}", "/a" + "/" * n) for n in range(100)] + [mount("e", f"/a/{n}") for n in range(100)]
    given = pod(
        containers=[{"name": "c", "volumeMounts": mounts}],
        volumes=[{"name": f"v{n}", "secret": {"secretName": "s"}} for n in range(100)],
    )
    assert refusal(given, SEALED).startswith("spec.containers[0].volumeMounts: more than 4,096 mounts below others")


def test_a_record_that_no_api_server_takes() -> None:
    given = with_env(key_ref("A", "s", "k"), {"name": "LONG", "value": "x" * MAX_RECORD})
    said = refusal(given, SEALED)
    assert said.startswith(f"metadata.annotations[{ANNOTATION_NATIVE}]: ") and "into a ConfigMap" in said


def test_more_names_than_are_read() -> None:
    given = pod(volumes=[{"name": f"v{n}", "secret": {"secretName": f"s{n}"}} for n in range(MAX_NAMED)])
    assert len(wanted(given)) == MAX_NAMED
    given["spec"]["containers"] = [{"name": "c", "envFrom": [secret_ref("s0"), {"configMapRef": {"name": "m"}}]}]
    for attempt in (wanted, wanted_config_maps):
        with pytest.raises(Refused, match="more than 256 Secrets and ConfigMaps"):
            attempt(given)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}] * 2}, "spec.volumes: two of them have the name v"),
        ({"initContainers": [{"name": "main"}]}, "spec.containers: two of them have the name main"),
    ],
)
def test_names_that_come_twice(spec: Json, said: str) -> None:
    given = with_env(key_ref("A", "s", "k"), **spec)
    assert refusal(given, SEALED).startswith(said)
    assert restore(given, given) == given


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"containers": {"name": "c"}}, "spec.containers"),
        ({"containers": [None]}, "spec.containers"),
        ({"containers": [{"name": 1}]}, "spec.containers"),
        ({"containers": [{"env": []}]}, "spec.containers"),
        ({"containers": [{"name": "c", "env": [{"name": ["x"]}]}]}, "spec.containers"),
        ({"containers": [{"name": "c", "env": [None, file_ref("A", "s/k")]}]}, "spec.containers"),
        ({"containers": [{"name": "c", "envFrom": [{"prefix": 1}]}]}, "spec.containers"),
        ({"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": 1}]}]}, "spec.containers"),
        ({"initContainers": ["x"]}, "spec.initContainers"),
        ({"nodeSelector": ["x"]}, "spec.nodeSelector"),
        ({"containers": [{"name": "c", "args": 1 << 70}]}, "spec"),
        ({"containers": [{"name": "\ud800"}]}, "spec"),
    ],
)
def test_what_has_no_form_of_a_pod(spec: Json, where: str) -> None:
    given = pod(volumes=[{"name": "v", "secret": {"secretName": "s"}}], **spec)
    assert refusal(given, SEALED).startswith(f"{where}: it has not the form that it has in a Pod")
    assert restore(given, given) == given and native_secrets(given) == {"s"}


def test_annotations_of_another_form() -> None:
    given = volume(secret={"secretName": "s"}) | {"metadata": {"annotations": {"a": 1}}}
    assert refusal(given, SEALED).startswith("metadata.annotations: it has not the form")


def test_all_volumes_of_a_pod_are_bounded() -> None:
    full = own("", Files((Source("s", (Item("k", "p"),) * 4000),)))
    given = pod(volumes=[full | {"name": f"v{n}"} for n in range(300)])
    assert own_volumes_of(given) == ["v0", "v1", "v2"]


def test_volumes_that_cannot_be_read_are_not_looked_at_for_ever() -> None:
    bad = own("bad", {ATTRIBUTE_FILES: "no json"})
    good = own("good", Files((Source("t"),)))
    assert referred_secrets(pod(volumes=[bad, bad, good])) == {"t"}
    assert referred_secrets(pod(volumes=[*[bad] * 300, good])) == frozenset()
    several = [bad | {"name": f"bad{n}"} for n in range(4)]
    assert refusal(pod(volumes=several), SEALED).startswith("spec.volumes: several volumes of keyshred's driver cannot")
    plan(pod(volumes=several[:3]), SEALED)


def test_the_same_pod_again_is_not_larger() -> None:
    """What a plan adds counts for none, so that another webhook's change leads to no refusal."""
    given = pod(
        containers=[{"name": "c", "env": [key_ref("A", "s", "k"), *literals(MAX_PARTS - 65)]}],
        volumes=[{"name": "v", "secret": items(60)}],
    )
    planned = plan(given, SEALED)
    assert plan(planned, SEALED) == planned
    assert "more than 4,096" in refusal(with_env(key_ref("A", "s", "k"), *literals(MAX_PARTS - 1)), SEALED)


def test_nor_are_empty_entries_that_stand_before_ours() -> None:
    keys = MANY.secrets["s"].keys
    known = terms({"s": Known(keys, None, empty=keys)})
    planned = plan(with_env(sources=(secret_ref("s"),)), known)
    assert len(planned["spec"]["containers"][0]["env"]) == 2 * MAX_VARIABLES
    assert plan(planned, known) == planned


@pytest.mark.parametrize(
    "bad", [pod(containers=[1]), pod(containers=[{"name": "main", "env": [1]}]), with_env(*literals(2 * MAX_PARTS))]
)
def test_nothing_is_put_back_to_or_from_a_pod_that_is_none(bad: Json) -> None:
    given = with_env(key_ref("A", "s", "k"))
    planned = plan(given, SEALED)
    assert restore(bad, planned) == bad
    assert restore(given, planned | {"spec": planned["spec"] | bad["spec"]}) == given
