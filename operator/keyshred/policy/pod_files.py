"""Volumes of Secrets, and what stands in for them: inline CSI volumes of our driver with the same files."""

import posixpath
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace
from typing import Any, Final

from keyshred.errors import Malformed, Refused
from keyshred.policy import volumes
from keyshred.policy.pod_terms import (
    LEAVE_OUT,
    SECRET_REF_VOLUMES,
    Json,
    Object,
    Terms,
    at,
    containers,
    listed,
    refused,
    text,
)
from keyshred.policy.volumes import Content, Files, Item, Source

_READ_ELSEWHERE: Final = (
    ("csi", "nodePublishSecretRef", "name"),
    ("azureFile", "secretName"),
    *((kind, "secretRef", "name") for kind in SECRET_REF_VOLUMES),
)
"""Where volumes name a Secret whose values go to a driver or to the kubelet, not into files (core/v1, Volume)."""


def native_names(volume: Object) -> Iterator[str]:
    """Names of the Secrets that a volume has from Kubernetes, whatever it does with them."""
    yield from filter(None, (_name(source) for _, source in secret_sources(volume, "")))
    yield from filter(None, (text(volume, *steps) for steps in _READ_ELSEWHERE))


def secret_sources(volume: Object, where: str) -> Iterator[tuple[str, Object]]:
    """What a volume has of Secrets as files, each with its field."""
    if (secret := at(volume, "secret")) is not None:
        yield f"{where}.secret", secret
    for index, source in enumerate(listed(volume, "projected", "sources")):
        if (secret := at(source, "secret")) is not None:
            yield f"{where}.projected.sources[{index}].secret", secret


def files(volume: Object, where: str, terms: Terms) -> Files | None:
    """What a volume of Secrets holds; None: it has none, or it is left as it is.

    Raises Refused for what no volume of ours can be, or for a sealed Secret that somebody else would read.
    """
    _check_elsewhere(volume, where, terms)
    found = list(secret_sources(volume, where))
    names = [_name(source) for _, source in found]
    # Kubernetes itself refuses a volume that names none.
    if not found or not all(names) or all(terms.keeps(name) for name in names):
        return None
    if len(listed(volume, "projected", "sources")) > len(found):
        raise refused(
            f"{where}.projected.sources",
            "a volume that mixes Secrets with other sources cannot be filled by keyshred",
            "make two volumes of it, or mount both into the directory by subPath",
        )
    mode = at(volume, "projected" if "projected" in volume else "secret", "defaultMode")
    # Before anything is made of them.
    if len(found) + sum(len(listed(source, "items")) for _, source in found) > volumes.MAX_PARTS:
        raise _too_much(where, f"more than {volumes.MAX_PARTS:,} Secrets and items")
    sources = tuple(_source(source, place) for place, source in found)
    held = Files(sources, volumes.DEFAULT_MODE if mode is None else _mode(mode, where))
    check_room(held, where)
    return held


def check_room(held: Content, where: str) -> None:
    """Raises Refused for more than a volume can hold."""
    if words := volumes.excess(held):
        raise _too_much(where, words)


def csi(held: Content) -> Json:
    """The source of a volume of ours. Not readOnly: that would switch SELinux relabelling off."""
    return {"driver": volumes.DRIVER, "volumeAttributes": volumes.attributes(held)}


def is_ours(volume: Object) -> bool:
    """Whether it is of our driver, readable or not."""
    return text(volume, "csi", "driver") == volumes.DRIVER


def content(volume: Object) -> Content | None:
    """What a volume of ours holds; None: it is none, or cannot be read."""
    if not is_ours(volume):
        return None
    try:
        return volumes.parse(at(volume, "csi", "volumeAttributes") or {})
    except Malformed:
        return None


def nested(spec: Object, names: Set[str]) -> dict[str, set[str]]:
    """By volume, of those: directories that containers mount others on, as the kubelet would make them.

    (Kubernetes, pkg/volume/util/nested_volumes.go; native ones are as read-only as ours.)
    """
    found: dict[str, set[str]] = {}
    total = 0
    for where, container in containers(spec):
        for name, directory in _nested(listed(container, "volumeMounts"), names):
            directories = found.setdefault(name, set())
            total += directory not in directories
            directories.add(directory)
            if total > volumes.MAX_PARTS:
                raise _too_much(f"{where}.volumeMounts", f"more than {volumes.MAX_PARTS:,} mounts below others")
    return found


def with_nested(volume: Object, directories: Set[str], where: str) -> Json:
    """A volume of ours with these directories, too."""
    held = content(volume)
    if not isinstance(held, Files) or directories <= set(held.nested):
        return dict(volume)
    more = replace(held, nested=tuple(sorted(directories | set(held.nested))))
    check_room(more, where)
    return {**volume, "csi": csi(more)}


def read_only(mounts: Iterable[Json], names: Set[str]) -> list[Json]:
    """The volumeMounts, those of the named volumes read-only, as native ones of Secrets are in effect."""
    return [{**m, "readOnly": True} if m["name"] in names else m for m in mounts]


def native_mounts(mounts: Iterable[Json], recorded: Iterable[Json]) -> list[Json]:
    """The volumeMounts as they were before `read_only`, by what was recorded of them; others as they are."""
    before = {m.get("mountPath"): m for m in recorded}
    was = ((before.get(m.get("mountPath")), m) for m in mounts)
    return [b if b is not None and {**b, "readOnly": True} == m else m for b, m in was]


def _nested(mounts: list[Json], names: Set[str]) -> Iterator[tuple[str, str]]:
    """Those volumes, and where others are mounted below them with no other mount between."""
    mounted: dict[str, set[str]] = {}
    for mount in mounts:
        mounted.setdefault(posixpath.normpath(mount.get("mountPath") or "/"), set()).add(mount["name"])
    above: list[str] = []
    for path in sorted(mounted, key=lambda p: p.split("/")):
        while above and not path.startswith(above[-1] + "/"):
            above.pop()
        if above:
            below = path[len(above[-1]) + 1 :]
            # The kubelet lets nobody have these names; the driver would not mount the volume at all.
            if not below.startswith(".."):
                yield from ((name, below) for name in mounted[above[-1]] if name in names)
        above.append(path)


def _name(source: Object) -> str:
    return text(source, "secretName") or text(source, "name")


def _source(source: Object, where: str) -> Source:
    items = tuple(_item(item, f"{where}.items[{n}]") for n, item in enumerate(listed(source, "items")))
    return Source(_name(source), items or None, source.get("optional") is True)


def _item(item: Object, where: str) -> Item:
    mode = at(item, "mode")
    try:
        path = volumes.check_path(text(item, "path"))
    except ValueError:
        raise refused(f"{where}.path", "the path leaves the volume", "use a relative one without ..") from None
    return Item(text(item, "key"), path, None if mode is None else _mode(mode, where))


def _mode(mode: Any, where: str) -> int:
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= volumes.MODE_MASK:
        raise refused(where, "a mode of files is not within 0 and 0777", "give one that is")
    return mode


def _check_elsewhere(volume: Object, where: str, terms: Terms) -> None:
    for steps in _READ_ELSEWHERE:
        known = terms.secrets.get(text(volume, *steps))
        if known is not None and known.unfit is None and not known.left_out:
            raise refused(
                ".".join((where, *steps)),
                f"Secret {text(volume, *steps)} is sealed, and the driver of this volume would get ciphertext",
                LEAVE_OUT,
            )


def _too_much(where: str, words: str) -> Refused:
    return refused(where, f"{words} are too much for one volume", "make several volumes of it")
