"""How a pod read Secrets before it was changed: an annotation on it, so that updates and injectors can go by it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy.pod_bounds import MAX_RECORD
from keyshred.policy.pod_shape import MOUNT, SOURCE, VARIABLE, VOLUME_SOURCE, Shape, fits
from keyshred.policy.pod_terms import Json, Object, at, refused, text

ANNOTATION_NOT_BACKED_UP: Final = "backup.velero.io/backup-volumes-excludes"
"""Velero's: volumes that no file-system backup looks into."""
_LISTS: Final[dict[str, Shape]] = {"env": VARIABLE, "envFrom": SOURCE, "mounts": MOUNT}
"""What is kept of a container; `mounts` are its volumeMounts."""


@dataclass(frozen=True, slots=True)
class Native:
    """Volumes by name, without it, and lists of containers by their names: of each, only what was changed."""

    volumes: dict[str, Json] = field(default_factory=dict)
    containers: dict[str, dict[str, list[Json]]] = field(default_factory=dict)

    def of(self, container: str) -> dict[str, list[Json]]:
        """What is kept of that container; changes to it are kept, too."""
        return self.containers.setdefault(container, {})

    def text(self) -> str:
        """The annotation: the same content has the same text. Empty: nothing was changed."""
        kept = {
            "volumes": self.volumes,
            "containers": {name: lists for name, lists in self.containers.items() if lists},
        }
        whole = {k: v for k, v in kept.items() if v}
        return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if whole else ""


def recorded(pod: Object) -> str:
    """The annotation as it is; empty: there is none."""
    return text(pod, "metadata", "annotations", ANNOTATION_NATIVE)


def read(pod: Object) -> Native:
    """From a pod's annotation, which anybody who may create pods can write: what has another form is passed over."""
    written = recorded(pod)
    if len(written) > MAX_RECORD:
        return Native()
    try:
        # Unlike json, it bounds depth and numbers. In a patch of the pod all lies deeper than here.
        whole = orjson.loads(written or "{}")
        orjson.dumps([[[[whole]]]])
    except (ValueError, TypeError):
        return Native()
    return Native(
        {name: source for name, source in _items(at(whole, "volumes")) if _is_object(source, VOLUME_SOURCE)},
        {
            name: {
                kind: [item for item in lists[kind] if _is_object(item, shape)]
                for kind, shape in _LISTS.items()
                if isinstance(at(lists, kind), list)
            }
            for name, lists in _items(at(whole, "containers"))
        },
    )


def write(pod: Json, record: Native, volumes: Iterable[str]) -> None:
    """Writes the record. Raises Refused for one that no API server takes."""
    written = record.text()
    if len(written) > MAX_RECORD:
        raise refused(
            f"metadata.annotations[{ANNOTATION_NATIVE}]",
            f"what keyshred keeps of the pod's containers and volumes has more than {MAX_RECORD >> 10} KiB",
            "move long values of env into a ConfigMap",
        )
    annotate(pod, written, volumes)


def annotate(pod: Json, record: str, volumes: Iterable[str]) -> None:
    """Writes the record, and that these volumes are not to be backed up. An empty text and no volumes: nothing."""
    before = text(pod, "metadata", "annotations", ANNOTATION_NOT_BACKED_UP)
    names = [name for name in before.split(",") if name]
    there = frozenset(names)
    added = [name for name in volumes if name not in there]
    changes = {ANNOTATION_NATIVE: record} if record else {}
    if added:
        changes[ANNOTATION_NOT_BACKED_UP] = ",".join(names + added)
    if changes:
        metadata = pod.get("metadata") or {}
        pod["metadata"] = {**metadata, "annotations": {**(metadata.get("annotations") or {}), **changes}}


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _is_object(value: Any, shape: Shape) -> bool:
    return isinstance(value, dict) and fits(value, shape)
