"""Whether a pod is one to plan for: no larger than the planner is made for, and of the form that it relies on."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from keyshred.errors import Refused
from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy import pod_environment, pod_files, pod_init, pod_native, volumes
from keyshred.policy.pod_bounds import MAX_PARTS, MAX_RECORD, MAX_VARIABLES
from keyshred.policy.pod_environment import is_empty, path_of
from keyshred.policy.pod_shape import SPEC, fits
from keyshred.policy.pod_terms import SOURCE_VOLUME, Object, at, containers, listed, refused, text
from keyshred.policy.volumes import Files

_OF_ENVIRONMENTS: Final = 5
"""What pod_init.py adds: two volumes, and a container with two mounts."""
_MAX_UNREAD: Final = 3
"""Volumes of ours that cannot be read: none is of use, and to find out takes as long as to read one."""
_SMALLER: Final = "make the pod smaller"


def concerns(pod: Object) -> bool:
    """Whether there is anything in it for the planner: Secrets, volumes of ours, or a record of what was replaced."""
    if pod_native.recorded(pod):
        return True
    spec = at(pod, "spec")
    return any(
        pod_files.is_ours(volume) or any(pod_files.native_names(volume)) for volume in listed(spec, "volumes")
    ) or any(pod_environment.secrets(container) for _, container in containers(spec))


def check(pod: Object) -> None:
    """Raises Refused for a pod that is none to plan for. The planner's words are for those that concern it alone."""
    if len(pod_native.recorded(pod)) > MAX_RECORD:
        where = f"metadata.annotations[{ANNOTATION_NATIVE}]"
        raise refused(where, f"it has more than {MAX_RECORD >> 10} KiB", "take it out: keyshred writes it")
    spec = at(pod, "spec")
    _check_size(spec)
    _check_form(pod, spec)
    # What is kept of them is kept by name.
    _check_unique("spec.volumes", (volume["name"] for volume in listed(spec, "volumes")))
    _check_unique("spec.containers", (container["name"] for _, container in containers(spec)))


def is_sound(pod: Object) -> bool:
    """Whether `check` has nothing against it."""
    try:
        check(pod)
    except Refused:
        return False
    return True


def _check_size(spec: Any) -> None:
    """By numbers alone: nothing is sure yet of what they are numbers of."""
    # What an earlier plan made of the pod must not be too much for a later one.
    parts, ours, nested, unread = -_OF_ENVIRONMENTS if pod_init.is_there(spec) else 0, 0, 0, 0
    for volume in listed(spec, "volumes"):
        held = pod_files.content(volume)
        unread += held is None and pod_files.is_ours(volume)
        if unread > _MAX_UNREAD:
            raise refused("spec.volumes", "several volumes of keyshred's driver cannot be read", "take them out")
        if held is None:
            sources = [s for _, s in pod_files.secret_sources(volume, "")]
            parts += 1 + max(len(sources), len(listed(volume, "projected", "sources")))
            parts += sum(len(listed(source, "items")) for source in sources)
        elif isinstance(held, Files):
            parts += 1 + volumes.parts(held) - len(held.nested)
            nested += len(held.nested)
        else:
            parts += 1 if text(volume, "name") == SOURCE_VOLUME else 1 + len(held.values)
        _check_numbers(parts, ours, nested)
    for _, container in containers(spec):
        env = listed(container, "env")
        parts += 1 + len(listed(container, "envFrom")) + len(listed(container, "volumeMounts"))
        _check_numbers(parts + len(env) - 2 * MAX_VARIABLES, ours, nested)
        for index, entry in enumerate(env):
            if not path_of(entry):
                parts += 1
                continue
            ours += 1
            # An empty entry before ours may be ours, too.
            if index and is_empty(env[index - 1]) and at(env[index - 1], "name") == at(entry, "name"):
                parts -= 1
        _check_numbers(parts, ours, nested)


def _check_numbers(parts: int, ours: int, nested: int) -> None:
    if parts > MAX_PARTS:
        what = "volumes, items, containers, variables and mounts"
        raise refused("spec", f"it has more than {MAX_PARTS:,} {what} together", _SMALLER)
    if ours > MAX_VARIABLES:
        raise refused("spec", f"it has more than {MAX_VARIABLES:,} variables from keyshred's volume", _SMALLER)
    if nested > volumes.MAX_PARTS:
        raise refused("spec.volumes", f"they have more than {volumes.MAX_PARTS:,} directories for mounts", _SMALLER)


def _check_form(pod: Object, spec: Any) -> None:
    annotations = at(pod, "metadata", "annotations")
    form = {"spec." + key: fits(at(spec, key), shape) for key, shape in SPEC.items()} | {
        "metadata": pod.get("metadata") is None or isinstance(pod["metadata"], Mapping),
        "metadata.annotations": annotations is None or _is_texts(annotations),
        "spec": _is_writable([spec, annotations]),
    }
    if wrong := [where for where, is_fine in form.items() if not is_fine]:
        raise refused(wrong[0], "it has not the form that it has in a Pod", "give it that form")


def _check_unique(where: str, names: Iterable[str]) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise refused(where, f"two of them have the name {twice[0]}", "give one of them another name")


def _is_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())


def _is_writable(value: Any) -> bool:
    """Whether it could be in a patch: not too deep, and of numbers and strings that JSON has."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
