"""Volumes of Secrets, and what stands in for them: inline CSI volumes of our driver with the same files."""

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from keyshred.errors import Malformed
from keyshred.policy import volumes
from keyshred.policy.pod_terms import LEAVE_OUT, Json, Object, Terms, at, containers, listed, refused
from keyshred.policy.volumes import Content, Files, Item, Source

_READ_ELSEWHERE: Final = (
    ("csi", "nodePublishSecretRef", "name"),
    ("azureFile", "secretName"),
    *((kind, "secretRef", "name") for kind in ("flexVolume", "iscsi", "rbd", "cephfs", "scaleIO", "storageos")),
    ("cinder", "secretRef", "name"),
)
"""Where volumes name a Secret whose values go to a driver or to the kubelet, not into files (core/v1, Volume)."""


def native_names(volume: Object) -> Iterator[str]:
    """Names of the Secrets that a volume has from Kubernetes, whatever it does with them."""
    yield from filter(None, (_name(source) for _, source in _secret_sources(volume, "")))
    yield from filter(None, (at(volume, *steps) for steps in _READ_ELSEWHERE))


def files(volume: Object, where: str, terms: Terms) -> Files | None:
    """What a volume of Secrets holds; None: it has none, or it is left as it is.

    Raises Refused for what no volume of ours can be, or for a sealed Secret that somebody else would read.
    """
    _check_elsewhere(volume, where, terms)
    found = list(_secret_sources(volume, where))
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
    sources = tuple(_source(source, place) for place, source in found)
    return Files(sources, volumes.DEFAULT_MODE if mode is None else _mode(mode, where))


def csi(content: Content) -> Json:
    """The source of a volume of ours. Not readOnly: that would switch SELinux relabelling off."""
    return {"driver": volumes.DRIVER, "volumeAttributes": volumes.attributes(content)}


def content(volume: Object | None) -> Content | None:
    """What a volume of ours holds; None: it is none, or cannot be read."""
    source = at(volume, "csi")
    if at(source, "driver") != volumes.DRIVER:
        return None
    try:
        return volumes.parse(at(source, "volumeAttributes") or {})
    except Malformed:
        return None


def with_nested(volume: Object, spec: Object) -> Json:
    """A volume of ours with the directories that containers mount others on, as the kubelet would make them.

    (Kubernetes, pkg/volume/util/nested_volumes.go; native ones are as read-only as ours.)
    """
    held = content(volume)
    if not isinstance(held, Files):
        return dict(volume)
    found = {d for _, c in containers(spec) for d in _nested(volume["name"], listed(c, "volumeMounts"))}
    nested = tuple(sorted(found | set(held.nested)))
    return dict(volume) if nested == held.nested else {**volume, "csi": csi(replace(held, nested=nested))}


def read_only(mounts: Iterable[Json], names: Iterable[str]) -> list[Json]:
    """The volumeMounts, those of the named volumes read-only, as native ones of Secrets are in effect."""
    ours = frozenset(names)
    return [{**m, "readOnly": True} if m.get("name") in ours else m for m in mounts]


def native_mounts(mounts: Iterable[Json], recorded: Iterable[Json]) -> list[Json]:
    """The volumeMounts as they were before `read_only`, by what was recorded of them; others as they are."""
    before = {m.get("mountPath"): m for m in recorded}
    was = ((before.get(m.get("mountPath")), m) for m in mounts)
    return [b if b is not None and {**b, "readOnly": True} == m else m for b, m in was]


def _nested(name: str, mounts: list[Json]) -> Iterator[str]:
    paths = sorted(posixpath.normpath(m.get("mountPath") or "/") for m in mounts)
    for own in (posixpath.normpath(m.get("mountPath") or "/") for m in mounts if m.get("name") == name):
        below: list[str] = []
        for path in paths:
            if path.startswith(own + "/") and not any(path.startswith(b + "/") for b in below):
                below.append(path)
                nested = path[len(own) + 1 :]
                # The kubelet lets nobody have these names; the driver would not mount the volume at all.
                if not nested.startswith(".."):
                    yield nested


def _secret_sources(volume: Object, where: str) -> Iterator[tuple[str, Object]]:
    if (secret := volume.get("secret")) is not None:
        yield f"{where}.secret", secret
    for index, source in enumerate(listed(volume, "projected", "sources")):
        if (secret := at(source, "secret")) is not None:
            yield f"{where}.projected.sources[{index}].secret", secret


def _name(source: Object) -> str:
    return source.get("secretName") or source.get("name") or ""


def _source(source: Object, where: str) -> Source:
    items = tuple(_item(item, f"{where}.items[{n}]") for n, item in enumerate(listed(source, "items")))
    return Source(_name(source), items or None, source.get("optional") is True)


def _item(item: Object, where: str) -> Item:
    mode = item.get("mode")
    try:
        path = volumes.check_path(item.get("path") or "")
    except ValueError:
        raise refused(f"{where}.path", "the path leaves the volume", "use a relative one without ..") from None
    return Item(item.get("key") or "", path, None if mode is None else _mode(mode, where))


def _mode(mode: Any, where: str) -> int:
    if not isinstance(mode, int) or not 0 <= mode <= volumes.MODE_MASK:
        raise refused(where, "a mode of files is not within 0 and 0777", "give one that is")
    return mode


def _check_elsewhere(volume: Object, where: str, terms: Terms) -> None:
    for steps in _READ_ELSEWHERE:
        known = terms.secrets.get(at(volume, *steps) or "")
        if known is not None and known.plain is None and not known.left_out:
            raise refused(
                ".".join((where, *steps)),
                f"Secret {at(volume, *steps)} is sealed, and the driver of this volume would get ciphertext",
                LEAVE_OUT,
            )
