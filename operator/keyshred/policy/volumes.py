"""What an inline CSI volume of ours is to hold, by its volumeAttributes: files of Secrets, or values for variables.

The pod webhook writes them, the node plugin reads them, and the unseal call learns from them what a pod refers to.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from keyshred.errors import Malformed

DRIVER: Final = "csi.keyshred.dev"
ATTRIBUTE_FILES: Final = "keyshred.dev/files"
ATTRIBUTE_VARIABLES: Final = "keyshred.dev/variables"
DEFAULT_MODE: Final = 0o644
"""Of files, where neither volume nor item says more (core/v1, SecretVolumeSource)."""
MODE_MASK: Final = 0o777


@dataclass(frozen=True, slots=True)
class Item:
    """One value under a path of its own (core/v1, KeyToPath). `mode` None: the volume's."""

    key: str
    path: str
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One Secret. `items` None: all its values, each under its key. `optional`: it and its items may be missing."""

    secret: str
    items: tuple[Item, ...] | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """A volume of files; where two sources have the same path, the later one wins, as in a projected volume."""

    sources: tuple[Source, ...]
    default_mode: int = DEFAULT_MODE
    nested: tuple[str, ...] = ()
    """Directories that are there whatever the Secrets hold: containers have other volumes mounted on them."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One value for environments. `optional`: Secret or key may be missing."""

    secret: str
    key: str
    optional: bool = False

    @property
    def path(self) -> str:
        """Of its file in the volume."""
        return f"{self.secret}/{self.key}"


@dataclass(frozen=True, slots=True)
class Variables:
    """A volume with one file for each value, in the format of fileKeyRef, which an init container copies."""

    values: tuple[Variable, ...]


Content = Files | Variables


def attributes(content: Content) -> dict[str, str]:
    """The volumeAttributes; the same content has the same text."""
    match content:
        case Files():
            sources = [_without_defaults(s) for s in content.sources]
            nested = {"nested": list(content.nested)} if content.nested else {}
            return {ATTRIBUTE_FILES: _text({"defaultMode": content.default_mode, "sources": sources} | nested)}
        case Variables():
            return {ATTRIBUTE_VARIABLES: _text([_without_defaults(v) for v in content.values])}


def parse(given: Mapping[str, str]) -> Content:
    """From volumeAttributes, which anybody who may create pods can write; others than ours are passed over.

    Raises Malformed for a text that is not what `attributes` writes, or for paths that leave the volume.
    """
    if (ATTRIBUTE_FILES in given) == (ATTRIBUTE_VARIABLES in given):
        raise Malformed(f"a volume of {DRIVER} needs {ATTRIBUTE_FILES} or {ATTRIBUTE_VARIABLES} in volumeAttributes")
    try:
        if ATTRIBUTE_VARIABLES in given:
            return Variables(tuple(_variable(v) for v in json.loads(given[ATTRIBUTE_VARIABLES])))
        read = json.loads(given[ATTRIBUTE_FILES])
        nested = tuple(check_path(_string(n)) for n in read.get("nested") or ())
        return Files(tuple(_source(s) for s in read["sources"]), _mode(read["defaultMode"]), nested)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Malformed(f"the volumeAttributes of a volume of {DRIVER} cannot be read") from None


def secrets(content: Content) -> frozenset[str]:
    """Names of the Secrets that it needs."""
    match content:
        case Files():
            return frozenset(s.secret for s in content.sources)
        case Variables():
            return frozenset(v.secret for v in content.values)


def check_path(path: str) -> str:
    """The path, if it stays in the volume and away from the names that updates use (core/v1, KeyToPath).

    Raises ValueError.
    """
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith("..") or "\0" in path:
        raise ValueError(path)
    return path


def _source(read: Mapping[str, Any]) -> Source:
    items = read.get("items")
    return Source(
        _name(read["secret"]),
        None if items is None else tuple(_item(i) for i in items),
        read.get("optional", False) is True,
    )


def _item(read: Mapping[str, Any]) -> Item:
    mode = read.get("mode")
    return Item(_string(read["key"]), check_path(_string(read["path"])), None if mode is None else _mode(mode))


def _variable(read: Mapping[str, Any]) -> Variable:
    found = Variable(_name(read["secret"]), _string(read["key"]), read.get("optional", False) is True)
    check_path(found.path)
    return found


def _name(value: object) -> str:
    name = _string(value)
    if not name or "/" in name:
        raise ValueError(name)
    return name


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _mode(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MODE_MASK:
        raise ValueError
    return value


def _without_defaults(part: Source | Variable) -> dict[str, Any]:
    return _pruned({"optional": False, "items": None}, asdict(part))


def _pruned(defaults: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in whole.items() if not (k in defaults and defaults[k] == v)}
    if isinstance(items := kept.get("items"), Iterable):
        kept["items"] = [_pruned({"mode": None}, item) for item in items]
    return kept


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
