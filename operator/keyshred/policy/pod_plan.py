"""What the webhook makes of a pod that has values of Secrets from Kubernetes: they come from our driver instead.

Files become inline CSI volumes (pod_files.py), environments files that an init container copies (pod_environment.py,
pod_init.py). How it was is kept in an annotation (pod_native.py), for updates (pod_update.py). Pure.
"""

from typing import Final

from keyshred.policy import pod_environment, pod_files, pod_init, pod_native
from keyshred.policy.pod_bounds import MAX_NAMED, Room
from keyshred.policy.pod_check import check, concerns
from keyshred.policy.pod_native import Native
from keyshred.policy.pod_terms import (
    LEAVE_OUT,
    Json,
    Known,
    Object,
    Terms,
    at,
    containers,
    copied,
    listed,
    put,
    refused,
    text,
)
from keyshred.policy.pod_update import our_volumes, plan_ephemeral, restore
from keyshred.policy.volumes import Variable

__all__ = ["Known", "Terms", "plan", "plan_ephemeral", "restore", "wanted", "wanted_config_maps"]

_MIRROR: Final = "kubernetes.io/config.mirror"
"""Annotation of pods that a kubelet has from elsewhere: nobody can change what runs in them."""


def wanted(pod: Object) -> frozenset[str]:
    """Names of the Secrets that a plan must know: those that the pod has natively, image pull secrets aside.

    Raises Refused for a pod that is none to plan for.
    """
    return _named(pod)[0]


def wanted_config_maps(pod: Object) -> frozenset[str]:
    """Names of the ConfigMaps whose keys a plan must know: those in one envFrom with a Secret.

    Raises Refused for a pod that is none to plan for.
    """
    return _named(pod)[1]


def plan(pod: Object, terms: Terms) -> Json:
    """The pod with volumes and environments of ours. What is ours already is left as it is.

    Raises Refused, which names the field, the reason and the way out.
    """
    planned = copied(pod)
    spec = planned.get("spec")
    if not isinstance(spec, dict) or at(planned, "metadata", "annotations", _MIRROR) is not None or not concerns(pod):
        return planned
    check(pod)
    record = pod_native.read(planned)
    changed = _plan_volumes(spec, record, terms)
    used, values = _plan_environments(spec, record, terms)
    changed += used
    if changed and _is_windows(spec):
        raise refused(changed[0], "keyshred has no driver for Windows", LEAVE_OUT)
    _plan_mounts(spec, record)
    if values:
        pod_init.add(spec, values, terms)
    elif pod_init.is_there(spec):
        pod_init.first(spec, terms)
    pod_native.write(planned, record, our_volumes(spec, record))
    return planned


def _named(pod: Object) -> tuple[frozenset[str], frozenset[str]]:
    """Secrets and ConfigMaps. Raises Refused for more than are read."""
    if not concerns(pod):
        return frozenset(), frozenset()
    check(pod)
    natives = _native_containers(pod)
    in_volumes = {name for volume in listed(pod, "spec", "volumes") for name in pod_files.native_names(volume)}
    secrets = frozenset(in_volumes.union(*map(pod_environment.secrets, natives)))
    config_maps = frozenset(
        name
        for container in natives
        if any(map(pod_environment.secret_of_source, listed(container, "envFrom")))
        for source in listed(container, "envFrom")
        if (name := text(source, "configMapRef", "name"))
    )
    if len(secrets) + len(config_maps) > MAX_NAMED:
        what = f"more than {MAX_NAMED} Secrets and ConfigMaps"
        raise refused("spec", f"it names {what}, which are too many for one pod", "put several of them into one")
    return secrets, config_maps


def _plan_volumes(spec: Json, record: Native, terms: Terms) -> list[str]:
    """Replaces volumes of Secrets; returns the fields of what was replaced."""
    changed = []
    for index, volume in enumerate(listed(spec, "volumes")):
        where = f"spec.volumes[{index}]"
        files = pod_files.files(volume, where, terms)
        if files is not None:
            record.volumes[volume["name"]] = {k: v for k, v in volume.items() if k != "name"}
            spec["volumes"][index] = {"name": volume["name"], "csi": pod_files.csi(files)}
            changed.append(f"{where}.{'projected' if 'projected' in volume else 'secret'}")
    ours = {v["name"] for v in listed(spec, "volumes") if pod_files.content(v) is not None}
    # A record that came along with a copied manifest may name others.
    for name in set(record.volumes) - ours:
        del record.volumes[name]
    return changed


def _plan_environments(spec: Json, record: Native, terms: Terms) -> tuple[list[str], list[Variable]]:
    """Replaces values of Secrets in environments; returns the fields of what was replaced, and the values."""
    changed, values, room = [], [], Room()
    for where, container in containers(spec):
        if not pod_environment.is_native(container, terms):
            room.take(where, pod_environment.count(container))
            continue
        name = container["name"]
        # What was replaced before is replaced again with the rest: the order of all decides which value wins.
        before = pod_environment.native(container, record.containers.get(name, {}))
        converted = pod_environment.convert(before, where, terms, room)
        for key, now in (("env", converted.env), ("envFrom", converted.env_from)):
            if now != listed(before, key):
                record.of(name)[key] = listed(before, key)
            put(container, key, now)
        changed += [use.where for use in converted.uses] or [where]
        values += [use.variable for use in converted.uses]
    return changed, values


def _plan_mounts(spec: Json, record: Native) -> None:
    """Makes mounts of volumes that were replaced read-only, and lets others be mounted below them."""
    for _, container in containers(spec):
        mounts = listed(container, "volumeMounts")
        now = pod_files.read_only(mounts, record.volumes.keys())
        if now != mounts:
            kept = record.of(container["name"])
            kept["mounts"] = pod_files.native_mounts(mounts, kept.get("mounts", ()))
            container["volumeMounts"] = now
    nested = pod_files.nested(spec, record.volumes.keys())
    for index, volume in enumerate(listed(spec, "volumes")):
        if directories := nested.get(volume["name"]):
            spec["volumes"][index] = pod_files.with_nested(volume, directories, f"spec.volumes[{index}]")


def _native_containers(pod: Object) -> list[Json]:
    """The containers with values of Secrets from Kubernetes, as they were before anything of them was replaced."""
    record = pod_native.read(pod)
    return [
        pod_environment.native(container, record.containers.get(container["name"], {}))
        for _, container in containers(pod.get("spec") or {})
        if pod_environment.secrets(container)
    ]


def _is_windows(spec: Object) -> bool:
    return "windows" in (at(spec, "os", "name"), at(spec, "nodeSelector", "kubernetes.io/os"))
