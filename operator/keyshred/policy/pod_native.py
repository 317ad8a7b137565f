"""How a pod read Secrets before it was changed: an annotation on it, so that updates and injectors can go by it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from keyshred.names import ANNOTATION_NATIVE
from keyshred.policy.pod_terms import Json, Object, at

ANNOTATION_NOT_BACKED_UP: Final = "backup.velero.io/backup-volumes-excludes"
"""Velero's: volumes that no file-system backup looks into."""
LISTS: Final = ("env", "envFrom", "mounts")
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


def read(pod: Object) -> Native:
    """From a pod's annotation, which anybody who may create pods can write: what has another form is passed over."""
    try:
        whole = json.loads(at(pod, "metadata", "annotations", ANNOTATION_NATIVE) or "{}")
    except (ValueError, TypeError, RecursionError):
        return Native()
    return Native(
        {name: source for name, source in _items(at(whole, "volumes")) if isinstance(source, dict)},
        {
            name: {kind: lists[kind] for kind in LISTS if _is_list_of_objects(at(lists, kind))}
            for name, lists in _items(at(whole, "containers"))
        },
    )


def annotate(pod: Json, text: str, volumes: Iterable[str]) -> None:
    """Writes the record, and that these volumes are not to be backed up. An empty text and no volumes: nothing."""
    before = at(pod, "metadata", "annotations", ANNOTATION_NOT_BACKED_UP) or ""
    names = [name for name in before.split(",") if name]
    added = [name for name in volumes if name not in names]
    changes = {ANNOTATION_NATIVE: text} if text else {}
    if added:
        changes[ANNOTATION_NOT_BACKED_UP] = ",".join(names + added)
    if changes:
        metadata = pod.setdefault("metadata", {})
        metadata["annotations"] = dict(metadata.get("annotations") or {}) | changes


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
