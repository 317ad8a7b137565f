"""Updates of pods that were changed when they were made: a manifest that is applied again has the native form."""

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

from keyshred.names import LABEL_ENV_FILES
from keyshred.policy import pod_environment, pod_files, pod_init, pod_native
from keyshred.policy.pod_bounds import Room
from keyshred.policy.pod_check import check, concerns, is_sound
from keyshred.policy.pod_environment import is_empty, path_of, path_of_native
from keyshred.policy.pod_native import Native
from keyshred.policy.pod_terms import (
    CONTAINER_KINDS,
    ENV_VOLUME,
    INIT_CONTAINER,
    SOURCE_VOLUME,
    Json,
    Object,
    Terms,
    canonical,
    containers,
    copied,
    listed,
    put,
    refused,
)


def restore(new: Object, old: Object) -> Json:
    """The updated pod with old's form put back where new has the native form that old's was made from.

    What really differs stays, so that the API server says what it has to say about it. A pod that is none to plan for
    stays as it is, too: it runs, and what cannot be put back says nothing against the rest of the update.
    """
    restored = copied(new)
    # As it is, not as it was read: an update that changes nothing must change nothing.
    text = pod_native.recorded(old)
    spec, old_spec = restored.get("spec"), old.get("spec")
    if not text or not isinstance(spec, dict) or not isinstance(old_spec, dict):
        return restored
    record = pod_native.read(old)
    if not record.text() or not is_sound(new) or not is_sound(old):
        return restored
    _restore_volumes(spec, old_spec, record)
    for kind in CONTAINER_KINDS:
        before = {c["name"]: c for c in listed(old_spec, kind)}
        for container in listed(spec, kind):
            name = container["name"]
            if name in before and name in record.containers:
                _restore_container(container, before[name], record.containers[name])
    if pod_init.is_there(old_spec):
        _put_back(spec, old_spec, "initContainers", (INIT_CONTAINER,))
        _put_back(spec, old_spec, "volumes", (SOURCE_VOLUME, ENV_VOLUME))
        selector = old_spec.get("nodeSelector") or {}
        if LABEL_ENV_FILES in selector and LABEL_ENV_FILES not in (spec.get("nodeSelector") or {}):
            spec["nodeSelector"] = dict(spec.get("nodeSelector") or {}) | {LABEL_ENV_FILES: selector[LABEL_ENV_FILES]}
    pod_native.annotate(restored, text, our_volumes(old_spec, record))
    return restored


def plan_ephemeral(new: Object, old: Object, terms: Terms) -> Json:
    """The pod with new ephemeral containers that have their values from the files that the pod has already.

    Raises Refused for any other value: a running pod gets no more volumes.
    """
    planned = copied(new)
    spec, old_spec = planned.get("spec"), old.get("spec")
    if not isinstance(spec, dict) or not (concerns(new) or concerns(old)):
        return planned
    for pod in (new, old):
        check(pod)
    there = {c["name"] for c in listed(old_spec, "ephemeralContainers")}
    carried = {(v.secret, v.key) for v in pod_init.variables(old_spec or {})}
    ours = pod_native.read(old).volumes.keys()
    room = Room()
    for where, container in containers(spec):
        if not where.startswith("spec.ephemeralContainers") or container["name"] in there:
            room.take(where, pod_environment.count(container))
    for index, container in enumerate(listed(spec, "ephemeralContainers")):
        if container["name"] in there:
            continue
        put(container, "volumeMounts", pod_files.read_only(listed(container, "volumeMounts"), ours))
        if not pod_environment.is_native(container, terms):
            continue
        converted = pod_environment.convert(container, f"spec.ephemeralContainers[{index}]", terms, room)
        for use in converted.uses:
            if (use.variable.secret, use.variable.key) not in carried:
                raise refused(
                    use.where,
                    f"no container of the pod has a variable from key {use.variable.key} of Secret "
                    f"{use.variable.secret}, and a running pod gets no more volumes",
                    "use kubectl debug without it, or mount the file where the pod has one",
                )
        put(container, "env", converted.env)
        put(container, "envFrom", converted.env_from)
    return planned


def our_volumes(spec: Object, record: Native) -> list[str]:
    """Names of the volumes with values in them, in order."""
    ours = set(record.volumes) | ({SOURCE_VOLUME, ENV_VOLUME} if pod_init.variables(spec) else set())
    return [v["name"] for v in listed(spec, "volumes") if v["name"] in ours]


def _restore_volumes(spec: Json, old_spec: Object, record: Native) -> None:
    before = {v["name"]: v for v in listed(old_spec, "volumes")}
    for index, volume in enumerate(listed(spec, "volumes")):
        name = volume["name"]
        if name not in before or name not in record.volumes:
            continue
        native, ours = {"name": name, **record.volumes[name]}, before[name]
        # Server-side apply leaves both sources.
        if volume in (native, native | {k: v for k, v in ours.items() if k == "csi"}):
            spec["volumes"][index] = ours


def _restore_container(container: Json, before: Json, native: dict[str, list[Json]]) -> None:
    env, env_from = listed(container, "env"), listed(container, "envFrom")
    fits = "env" not in native or _env_fits(env, listed(before, "env"), native["env"])
    if "envFrom" in native and env_from != native["envFrom"]:
        # Without the secretRef it is ours only if what came from it is there; else somebody has taken it out.
        fits = fits and env_from == listed(before, "envFrom") and _expanded(before, native) <= _files(env)
    if fits:
        for key in ("env", "envFrom"):
            if key in native:
                put(container, key, listed(before, key))
    if "mounts" in native and _mounts_fit(listed(container, "volumeMounts"), native["mounts"]):
        put(container, "volumeMounts", listed(before, "volumeMounts"))


def _env_fits(env: Sequence[Json], before: Sequence[Json], native: Sequence[Json]) -> bool:
    """Whether each variable has what the native list gives it, in that form, in ours, or in both.

    `apply` merges lists by names, and ours have names twice: so what is left of each form depends on the client.
    """
    paths: dict[str, set[str]] = defaultdict(set)
    for entry in before:
        if path := path_of(entry):
            paths[entry["name"]].add(path)
    now, then = _by_name(env), _by_name(native)
    return all(_variable_fits(now[n], then[n], paths.get(n, set())) for n in now.keys() | then.keys())


def _variable_fits(env: Sequence[Json], native: Sequence[Json], known: Set[str]) -> bool:
    said, seen = _native_claims(env, known)
    all_of_it = [_normal(e) for e in native if not (known and is_empty(e))]
    files = {canonical(e): path_of_native(e) for e in all_of_it}
    wanted = Counter(map(canonical, all_of_it))
    for claim in map(canonical, said):
        if wanted[claim] > 0:
            wanted[claim] -= 1
        # A merge by name can put it into an entry of ours that has the same name, beside its own.
        elif not known or claim not in files:
            return False
    return seen <= known and all(files[claim] in seen for claim, times in wanted.items() if times > 0)


def _by_name(env: Sequence[Json]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = defaultdict(list)
    for entry in env:
        found[entry["name"]].append(entry)
    return found


def _expanded(container: Json, native: dict[str, list[Json]]) -> set[tuple[str, str]]:
    """Variables that came from envFrom, with their files."""
    named = {(e["name"], path_of_native(e)) for e in native.get("env", ())}
    return _files(listed(container, "env")) - named


def _files(env: Sequence[Json]) -> set[tuple[str, str]]:
    return {(e["name"], path) for e in env if (path := path_of(e))}


def _native_claims(entries: Sequence[Json], known: Set[str]) -> tuple[list[Json], set[str]]:
    """What entries of one variable say without our part in them, and the files of ours that they name."""
    said, seen = [], set()
    for entry in entries:
        if path := path_of(entry):
            seen.add(path)
            source = {k: v for k, v in entry["valueFrom"].items() if k != "fileKeyRef"}
            entry = {k: v for k, v in entry.items() if k != "valueFrom"} | ({"valueFrom": source} if source else {})
            if is_empty(entry):
                continue
        elif known and is_empty(entry):
            continue
        said.append(_normal(entry))
    return said, seen


def _normal(entry: Json) -> Json:
    return {k: v for k, v in entry.items() if k != "value" or v}


def _mounts_fit(mounts: Sequence[Json], native: Sequence[Json]) -> bool:
    before = {m.get("mountPath"): m for m in native}
    return (
        {m.get("mountPath") for m in mounts} == set(before)
        and len(mounts) == len(native)
        and all(m in (n := before[m.get("mountPath")], {**n, "readOnly": True}) for m in mounts)
    )


def _put_back(spec: Json, old_spec: Object, key: str, names: tuple[str, ...]) -> None:
    """Puts what is missing back to its old place."""
    there = [item.get("name") for item in listed(spec, key)]
    for index, item in enumerate(listed(old_spec, key)):
        if item.get("name") in names and item.get("name") not in there:
            spec[key] = [*listed(spec, key)[:index], item, *listed(spec, key)[index:]]
