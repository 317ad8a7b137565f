"""What the pod planner is told about the world, and the names of what it puts into pods."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from keyshred.errors import Refused

Json = dict[str, Any]
Object = Mapping[str, Any]

ENV_VOLUME: Final = "keyshred-env"
"""The emptyDir that the kubelet fills environments from."""
SOURCE_VOLUME: Final = "keyshred-env-source"
"""The volume of our driver that it is filled from."""
INIT_CONTAINER: Final = "keyshred-env"
CONTAINER_KINDS: Final = ("initContainers", "containers", "ephemeralContainers")
SECRET_REF_VOLUMES: Final = ("flexVolume", "iscsi", "rbd", "cephfs", "scaleIO", "storageos", "cinder")
"""Volume sources with a `secretRef` to a Secret of the pod's namespace (core/v1, Volume)."""

LEAVE_OUT: Final = (
    "leave the Secret out by name (secrets.exclude.names of the KeyAuthorization), delete it and create it again"
)
"""The way out where nothing of ours can stand in for Kubernetes."""


@dataclass(frozen=True, slots=True)
class Known:
    """A Secret that exists. `left_out`: it stays with Kubernetes. `empty`: those of its keys that have an empty value.

    `unfit`: by key why its value fits no variable, for those that do not; None where it is sealed, so nobody knows.
    """

    keys: frozenset[str]
    unfit: Mapping[str, str] | None
    left_out: bool = False
    empty: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Terms:
    """What the plan for one pod goes by: Secrets and keys of ConfigMaps by name, and what the init container runs.

    `left_out`: names that stay with Kubernetes, whether there are such Secrets or not.
    """

    image: str
    pull_policy: str
    secrets: Mapping[str, Known]
    left_out: frozenset[str]
    config_map_keys: Mapping[str, frozenset[str]]

    def keeps(self, secret: str) -> bool:
        """Whether pods go on having that Secret from Kubernetes itself."""
        known = self.secrets.get(secret)
        return secret in self.left_out or (known is not None and known.left_out)

    def has_value(self, secret: str, key: str) -> bool:
        """Whether the key has a value now, and not an empty one."""
        known = self.secrets.get(secret)
        return known is not None and key in known.keys and key not in known.empty

    def keys(self, secret: str) -> frozenset[str]:
        """The keys that the Secret has now; none if it does not exist."""
        known = self.secrets.get(secret)
        return known.keys if known else frozenset()


def refused(where: str, why: str, way_out: str) -> Refused:
    """The error for a field of a pod."""
    return Refused(f"{where}: {why}; {way_out}")


def at(value: Any, *steps: str) -> Any:
    """What lies under these keys; None where anything on the way is missing, or is no object."""
    for step in steps:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def listed(value: Any, *steps: str) -> list[Any]:
    """The list under these keys; an empty one where there is none."""
    found = at(value, *steps)
    return found if isinstance(found, list) else []


def text(value: Any, *steps: str) -> str:
    """The string under these keys; an empty one where there is none."""
    found = at(value, *steps)
    return found if isinstance(found, str) else ""


def canonical(value: Object) -> bytes:
    """The same for what is equal, so that sets and dicts can find it."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def copied(pod: Object) -> Json:
    """A copy of which volumes, containers and their lists can be exchanged; what is in these is the pod's own."""
    whole = {**pod, **{part: dict(pod[part]) for part in ("metadata", "spec") if isinstance(pod.get(part), Mapping)}}
    if isinstance(spec := whole.get("spec"), dict):
        if isinstance(spec.get("volumes"), list):
            spec["volumes"] = list(spec["volumes"])
        for kind in CONTAINER_KINDS:
            if isinstance(spec.get(kind), list):
                spec[kind] = [dict(c) if isinstance(c, Mapping) else c for c in spec[kind]]
    return whole


def containers(spec: Object) -> Iterator[tuple[str, Json]]:
    """All containers of a pod, each with its field path."""
    for kind in CONTAINER_KINDS:
        for index, container in enumerate(listed(spec, kind)):
            yield f"spec.{kind}[{index}]", container


def put(target: Json, key: str, items: list[Any]) -> None:
    """Sets a list, as the API server has it: no key for an empty one."""
    if items:
        target[key] = items
    else:
        target.pop(key, None)
