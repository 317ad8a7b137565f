"""Pods with Secrets to plan for, and a small model of what kubelet and API server make of them."""

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from keyshred.errors import Refused
from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy import env_file, pod_files, volumes
from keyshred.policy.pod_plan import Known, Terms, plan
from keyshred.policy.pod_terms import SOURCE_VOLUME
from keyshred.policy.volumes import Variables

Json = dict[str, Any]
Values = Mapping[str, Mapping[str, bytes]]

IMAGE = "registry/keyshred:1"
NOT_BACKED_UP = "backup.velero.io/backup-volumes-excludes"

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def pod(*, annotations: dict[str, str] | None = None, **spec: Any) -> Json:
    metadata: Json = {"name": "p"} | ({"annotations": annotations} if annotations else {})
    return {"metadata": metadata, "spec": {"containers": [{"name": "main"}]} | spec}


def key_ref(name: str, secret: str, key: str, optional: bool | None = None) -> Json:
    ref: Json = {"name": secret, "key": key} | ({} if optional is None else {"optional": optional})
    return {"name": name, "valueFrom": {"secretKeyRef": ref}}


def secret_ref(secret: str, prefix: str = "", optional: bool | None = None) -> Json:
    ref: Json = {"name": secret} | ({} if optional is None else {"optional": optional})
    return {"secretRef": ref} | ({"prefix": prefix} if prefix else {})


def file_ref(name: str, path: str, optional: bool = True) -> Json:
    ref: Json = {"volumeName": "keyshred-env", "path": path, "key": "V"} | ({"optional": True} if optional else {})
    return {"name": name, "valueFrom": {"fileKeyRef": ref}}


def empty(name: str) -> Json:
    return {"name": name, "value": ""}


def terms(
    secrets: Mapping[str, Known | set[str]] | None = None,
    left_out: frozenset[str] = frozenset(),
    config_maps: Mapping[str, set[str]] | None = None,
) -> Terms:
    """Secrets by their keys alone are sealed."""
    known = {n: s if isinstance(s, Known) else Known(frozenset(s), None) for n, s in (secrets or {}).items()}
    return Terms(IMAGE, "IfNotPresent", known, left_out, {n: frozenset(k) for n, k in (config_maps or {}).items()})


def volume(**source: Any) -> Json:
    return pod(volumes=[{"name": "v", **source}])


def with_env(*env: Json, sources: tuple[Json, ...] = (), **spec: Any) -> Json:
    return pod(containers=[{"name": "main", "env": list(env), "envFrom": list(sources)}], **spec)


def held(planned: Json, name: str = "v") -> Any:
    return next(pod_files.content(v) for v in planned["spec"]["volumes"] if v["name"] == name)


def refusal(given: Json, known: Terms) -> str:
    with pytest.raises(Refused) as raised:
        plan(given, known)
    return str(raised.value)


def native(planned: Json) -> Any:
    return json.loads(planned["metadata"]["annotations"][ANNOTATION_NATIVE])


SEALED = terms({"s": {"k", "l"}, "t": {"k"}})
PLAIN = terms({"s": Known(frozenset({"k"}), {})})
LEFT_OUT = terms({"s": Known(frozenset({"k"}), {}, left_out=True)})


def stored(whole: Json) -> Json:
    """As the API server gives it back: `value: ""` is left out."""
    result = copy.deepcopy(whole)
    for kind in ("initContainers", "containers"):
        for container in result["spec"].get(kind, ()):
            for entry in container.get("env", ()):
                if entry.get("value") == "":
                    del entry["value"]
    return result


@dataclass(frozen=True)
class World:
    """Secrets and ConfigMaps of a namespace; `plain` are not sealed, `left_out` are out of keyshred's sight."""

    secrets: dict[str, dict[str, bytes]]
    config_maps: dict[str, dict[str, bytes]]
    plain: frozenset[str]
    left_out: frozenset[str]

    def terms(self) -> Terms:
        return terms(
            {
                n: Known(
                    frozenset(v),
                    unfit(v) if n in self.plain | self.left_out else None,
                    n in self.left_out,
                    frozenset(k for k, value in v.items() if not value),
                )
                for n, v in self.secrets.items()
            },
            self.left_out,
            {n: set(v) for n, v in self.config_maps.items()},
        )


def unfit(values: Mapping[str, bytes]) -> dict[str, str]:
    """Why they fit no variable, for those that do not."""
    return {key: why for key, value in values.items() if (why := env_file.unfit(value))}


class Fails(Exception):
    """The container cannot be started."""


def environment(container: Json, world: World, files: Mapping[str, bytes]) -> dict[str, str]:
    """Kubernetes, pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        ref, values = _source(source, world)
        if values is None:
            if not ref.get("optional"):
                raise Fails
            continue
        found |= {source.get("prefix", "") + k: v.decode() for k, v in values.items()}
    for entry in container.get("env", ()):
        name, origin = entry["name"], entry.get("valueFrom", {})
        if ref := origin.get("secretKeyRef"):
            value = world.secrets.get(ref["name"], {}).get(ref["key"])
            if value is None and not ref.get("optional"):
                raise Fails
            if value is not None:
                found[name] = value.decode()
        elif ref := origin.get("fileKeyRef"):
            if ref["path"] not in files:
                raise Fails
            text = files[ref["path"]]
            if value := text[len(f"{ref['key']}='") : -len("'\n")]:
                found[name] = value.decode()
            elif not ref.get("optional"):
                raise Fails
        else:
            expanded = re.sub(r"\$\((\w+)\)", lambda m: found.get(m[1], m[0]), entry.get("value", ""))
            found[name] = expanded
    return found


def _source(source: Json, world: World) -> tuple[Json, Mapping[str, bytes] | None]:
    if ref := source.get("secretRef"):
        return ref, world.secrets.get(ref["name"])
    return source["configMapRef"], world.config_maps.get(source["configMapRef"]["name"])


def files(planned: Json, world: World) -> dict[str, bytes]:
    """What the init container copies. Raises Fails where the volume cannot be mounted."""
    for volume in planned["spec"].get("volumes", ()):
        held = pod_files.content(volume) if volume["name"] == SOURCE_VOLUME else None
        if isinstance(held, Variables):
            return {v.path: _file(v, world) for v in held.values}
    return {}


def _file(variable: volumes.Variable, world: World) -> bytes:
    value = world.secrets.get(variable.secret, {}).get(variable.key)
    if value is None:
        if not variable.optional:
            raise Fails
        return b""
    return env_file.render(value)


_SECRETS = ("a", "b", "c", "d")
_MAPS = ("m", "n")
_KEYS = ("K", "L", "x.y")
_NAMES = ("K", "L", "PK", "OTHER")
_values = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from((b"", b"one", b"two\nlines", "ö$(K)".encode())))
_optional = st.sampled_from((None, False, True))
_prefix = st.sampled_from(("", "P"))

worlds = st.builds(
    World,
    st.dictionaries(st.sampled_from(_SECRETS), _values),
    st.dictionaries(st.sampled_from(_MAPS), _values),
    st.frozensets(st.sampled_from(_SECRETS), max_size=2),
    st.frozensets(st.sampled_from(_SECRETS[-1:])),
)
_key_refs = st.builds(key_ref, st.sampled_from(_NAMES), st.sampled_from(_SECRETS), st.sampled_from(_KEYS), _optional)
_literals = st.builds(
    lambda name, value: {"name": name, "value": value},
    st.sampled_from(_NAMES),
    st.sampled_from(("plain", "", "$(K)-$(PK)", "$(L)")),
)
_secret_refs = st.builds(secret_ref, st.sampled_from(_SECRETS), _prefix, _optional)
_map_refs = st.builds(
    lambda name, prefix: {"configMapRef": {"name": name, "optional": True}} | ({"prefix": prefix} if prefix else {}),
    st.sampled_from(_MAPS),
    _prefix,
)
_items = st.lists(
    st.builds(
        lambda key, path, mode: {"key": key, "path": path} | ({} if mode is None else {"mode": mode}),
        st.sampled_from(_KEYS),
        st.sampled_from(("f", "g/h")),
        st.sampled_from((None, 0o400)),
    ),
    max_size=2,
)
_volume_sources = st.one_of(
    st.builds(
        lambda name, items, optional: {"secret": {"secretName": name, "items": items, "optional": optional}},
        st.sampled_from(_SECRETS),
        _items,
        st.booleans(),
    ),
    st.builds(
        lambda names, mode: {"projected": {"sources": [{"secret": {"name": n}} for n in names], "defaultMode": mode}},
        st.lists(st.sampled_from(_SECRETS), min_size=1, max_size=3),
        st.sampled_from((0o644, 0o400)),
    ),
    st.just({"configMap": {"name": "m"}}),
    st.just({"emptyDir": {}}),
)
_VOLUMES = ("v0", "v1", "v2")
_MOUNTS = ("/x", "/x/in", "/x/in/deep", "/y")


def _container(name: str, env: list[Json], env_from: list[Json], mounts: list[Json]) -> Json:
    lists = {"env": env, "envFrom": env_from, "volumeMounts": mounts}
    return {"name": name} | {k: v for k, v in lists.items() if v}


def _mount(name: str, path: str, read_only: bool) -> Json:
    return {"name": name, "mountPath": path} | ({"readOnly": True} if read_only else {})


_mounts = st.lists(
    st.builds(_mount, st.sampled_from(_VOLUMES), st.sampled_from(_MOUNTS), st.booleans()),
    max_size=3,
    unique_by=lambda m: m["mountPath"],
)


def containers(name: str) -> st.SearchStrategy[Json]:
    """With names of variables that come once, as most manifests have them, or more often."""
    entries = _key_refs | _literals
    once = st.lists(entries, max_size=4, unique_by=lambda e: e["name"])
    return st.builds(
        _container,
        st.just(name),
        once | st.lists(entries, max_size=5),
        st.lists(_secret_refs | _map_refs, max_size=3),
        _mounts,
    )


pods = st.builds(
    lambda first, main, side, sources: pod(
        initContainers=[first],
        containers=[main, side],
        volumes=[{"name": n} | s for n, s in zip(_VOLUMES, sources, strict=True)],
    ),
    containers("first"),
    containers("main"),
    containers("side"),
    st.tuples(_volume_sources, _volume_sources, _volume_sources),
)

junk: st.SearchStrategy[Any] = st.sampled_from(
    (
        None,
        True,
        -1,
        10**30,
        1.5,
        "",
        "x",
        "..",
        "a/b",
        "\ud800",
        [],
        {},
        [None],
        [[]],
        ["x"],
        {"name": 1},
        {"x": ["x"]},
    )
).map(copy.deepcopy)
"""What is in no pod, where it stands."""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def spoiled(draw: st.DrawFn, whole: Any) -> Any:
    """That JSON with junk in up to three places."""
    result = {"whole": copy.deepcopy(whole)}
    for _ in range(draw(st.integers(1, 3))):
        spot: Any = result
        while spot:
            key = draw(st.sampled_from(sorted(spot) if isinstance(spot, dict) else range(len(spot))))
            inner = spot[key]
            if not isinstance(inner, dict | list) or draw(st.integers(0, 5)) == 0:
                spot[key] = draw(junk)
                break
            spot = inner
    return result["whole"]
