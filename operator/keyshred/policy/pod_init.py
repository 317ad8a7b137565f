"""What fills the files that environments come from: two volumes, and an init container that copies between them."""

from collections.abc import Iterable
from typing import Any, Final

from keyshred.names import LABEL_ENV_FILES
from keyshred.policy import pod_files
from keyshred.policy.pod_terms import (
    ENV_VOLUME,
    INIT_CONTAINER,
    SOURCE_VOLUME,
    Json,
    Object,
    Terms,
    at,
    containers,
    listed,
    refused,
)
from keyshred.policy.volumes import Variable, Variables, excess

_SOURCE_PATH: Final = "/keyshred/source"
_ENV_PATH: Final = "/keyshred/env"
_COMMAND: Final = ("cp", "-RLf", f"{_SOURCE_PATH}/..data/.", f"{_ENV_PATH}/")
"""-f: it runs again in a new sandbox of the same pod, and a user without capabilities cannot open what is read-only."""
_COPIED_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")
_VALUES_IN_A_MIB: Final = 8
"""Files of one Secret are up to 1 MiB (core/v1, MaxSecretSize), and each takes whole pages, of 64 KiB at most; twice
that, for the rest of them."""
_AS_FILES: Final = "mount some of the Secrets as files, or name the variables that are needed in env"
_RENAME: Final = "give it another name"


def variables(spec: Object) -> tuple[Variable, ...]:
    """The values that the pod has for environments already."""
    for volume in listed(spec, "volumes"):
        held = pod_files.content(volume) if at(volume, "name") == SOURCE_VOLUME else None
        if isinstance(held, Variables):
            return held.values
    return ()


def merged(values: Iterable[Variable]) -> tuple[Variable, ...]:
    """Each value once, in order; who must have it wins over who may."""
    found: dict[tuple[str, str], Variable] = {}
    for value in values:
        place = (value.secret, value.key)
        if place not in found or not value.optional:
            found[place] = value
    return tuple(found[place] for place in sorted(found))


def add(spec: Json, values: Iterable[Variable], terms: Terms) -> None:
    """Puts volumes, init container and node selection into the pod, and further values into what is there.

    Raises Refused where something else has their names, and for more values than a volume can hold.
    """
    there = variables(spec)
    _check_names(spec, bool(there))
    needed = merged((*there, *values))
    if words := excess(Variables(needed)):
        raise refused("spec.containers", f"{words} are too much for the environments of one pod", _AS_FILES)
    source = {"name": SOURCE_VOLUME, "csi": pod_files.csi(Variables(needed))}
    limit = len({v.secret for v in needed}) + -(-len(needed) // _VALUES_IN_A_MIB)
    target = {"name": ENV_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": f"{limit}Mi"}}
    spec["volumes"] = _with(_with(listed(spec, "volumes"), source), target)
    selector = dict(spec.get("nodeSelector") or {})
    if selector.setdefault(LABEL_ENV_FILES, "true") != "true":
        raise refused(f"spec.nodeSelector[{LABEL_ENV_FILES}]", "it keeps the pod from nodes that can run it", "drop it")
    spec["nodeSelector"] = selector
    first(spec, terms)


def first(spec: Json, terms: Terms) -> None:
    """Puts the init container before all others: these could not start without the files.

    One that is there keeps what others have added to it, but for the image, which may be an old one in a copied pod.
    """
    inits = listed(spec, "initContainers")
    others = [c for c in inits if c.get("name") != INIT_CONTAINER]
    found = next((c for c in inits if c.get("name") == INIT_CONTAINER), None)
    image = {"image": terms.image, "imagePullPolicy": terms.pull_policy}
    spec["initContainers"] = [{**(found or _container(spec)), **image}, *others]


def is_there(spec: Object) -> bool:
    """Whether the pod has the init container of ours."""
    return bool(variables(spec)) and any(at(c, "name") == INIT_CONTAINER for c in listed(spec, "initContainers"))


def _container(spec: Object) -> Json:
    return {
        "name": INIT_CONTAINER,
        "command": list(_COMMAND),
        "resources": _resources(spec),
        "securityContext": _security_context(spec),
        "volumeMounts": [
            {"name": SOURCE_VOLUME, "mountPath": _SOURCE_PATH, "readOnly": True},
            {"name": ENV_VOLUME, "mountPath": _ENV_PATH},
        ],
    }


def _resources(spec: Object) -> Json:
    """The first container's: a container without would change the pod's QoS class, and a quota might refuse it."""
    own = at(next(iter(listed(spec, "containers")), None), "resources")
    copied = {
        kind: {name: amount for name, amount in (at(own, kind) or {}).items() if name in _COPIED_RESOURCES}
        for kind in ("requests", "limits")
    }
    return {kind: amounts for kind, amounts in copied.items() if amounts}


def _security_context(spec: Object) -> Json:
    """As `restricted` asks. The pod's own user: a foreign one would make the kubelet open token files to everybody."""
    context: Json = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for who in ("runAsUser", "runAsGroup"):
        if (same := _same(spec, who)) is not None:
            context[who] = same
    user = context.get("runAsUser", at(spec, "securityContext", "runAsUser"))
    context["runAsNonRoot"] = user != 0
    if not at(spec, "securityContext", "seccompProfile"):
        context["seccompProfile"] = {"type": "RuntimeDefault"}
    return context


def _same(spec: Object, who: str) -> int | None:
    inherited = at(spec, "securityContext", who)
    found: set[Any] = set()
    for _, container in containers(spec):
        if container.get("name") != INIT_CONTAINER:
            own = at(container, "securityContext", who)
            found.add(inherited if own is None else own)
    return found.pop() if len(found) == 1 else None


def _check_names(spec: Object, ours: bool) -> None:
    for index, volume in enumerate(listed(spec, "volumes")):
        name = volume.get("name")
        own = ours and (name == SOURCE_VOLUME or at(volume, "emptyDir", "medium") == "Memory")
        if name in (SOURCE_VOLUME, ENV_VOLUME) and not own:
            raise refused(f"spec.volumes[{index}].name", f"keyshred needs the name {name} for a volume", _RENAME)
    for where, container in containers(spec):
        if container.get("name") == INIT_CONTAINER and not (ours and where.startswith("spec.initContainers")):
            raise refused(f"{where}.name", f"keyshred needs the name {INIT_CONTAINER} for a container", _RENAME)


def _with(volumes: list[Json], volume: Json) -> list[Json]:
    """The list with that volume in the place of the one with its name, or at the end."""
    if any(v.get("name") == volume["name"] for v in volumes):
        return [volume if v.get("name") == volume["name"] else v for v in volumes]
    return [*volumes, volume]
