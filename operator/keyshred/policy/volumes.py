"""What an inline CSI volume of ours is to hold, by its volumeAttributes: files of Secrets, or values for variables.

The pod webhook writes them, the node plugin reads them, and the unseal call learns from them what a pod refers to.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from keyshred.errors import Malformed

DRIVER: Final = "csi.keyshred.dev"
ATTRIBUTE_FILES: Final = "keyshred.dev/files"
ATTRIBUTE_VARIABLES: Final = "keyshred.dev/variables"
DEFAULT_MODE: Final = 0o644
"""Of files, where neither volume nor item says more (core/v1, SecretVolumeSource)."""
MODE_MASK: Final = 0o777
MAX_SECRETS: Final = 64
"""In one volume: each is a call of the driver, with values of up to 1 MiB."""
MAX_PARTS: Final = 4096
"""In one volume: Secrets, items, values and directories. As many as a sealed Secret can have keys."""
MAX_TEXT: Final = 256 * 1024
"""Characters of the attribute."""
_SECRETS_WORDS: Final = f"more than {MAX_SECRETS} Secrets"
_PARTS_WORDS: Final = f"more than {MAX_PARTS:,} Secrets, items, values and directories"
_TEXT_WORDS: Final = f"more than {MAX_TEXT >> 10} KiB of volumeAttributes"


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
            nested = {"nested": content.nested} if content.nested else {}
            sources = [_source_text(s) for s in content.sources]
            return {ATTRIBUTE_FILES: _text({"defaultMode": content.default_mode, "sources": sources} | nested)}
        case Variables():
            return {ATTRIBUTE_VARIABLES: _text([_variable_text(v) for v in content.values])}


def excess(content: Content) -> str:
    """What of it is more than one volume can hold; empty: nothing."""
    if len(secrets(content)) > MAX_SECRETS:
        return _SECRETS_WORDS
    if parts(content) > MAX_PARTS:
        return _PARTS_WORDS
    if any(len(text) > MAX_TEXT for text in attributes(content).values()):
        return _TEXT_WORDS
    return ""


def parse(given: Mapping[str, str]) -> Content:
    """From volumeAttributes, which anybody who may create pods can write; others than ours are passed over.

    Raises Malformed for a text that is not what `attributes` writes, for more than a volume can hold, or for paths that
    leave the volume.
    """
    if not isinstance(given, Mapping) or (ATTRIBUTE_FILES in given) == (ATTRIBUTE_VARIABLES in given):
        raise Malformed(f"a volume of {DRIVER} needs {ATTRIBUTE_FILES} or {ATTRIBUTE_VARIABLES} in volumeAttributes")
    try:
        text = _string(given[ATTRIBUTE_VARIABLES if ATTRIBUTE_VARIABLES in given else ATTRIBUTE_FILES])
        if len(text) > MAX_TEXT:
            raise _too_much(_TEXT_WORDS)
        # Unlike json, it bounds depth and numbers, and takes no lone surrogates, which no path can have.
        read = orjson.loads(text)
        content = _variables(read) if ATTRIBUTE_VARIABLES in given else _files(read)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Malformed(f"the volumeAttributes of a volume of {DRIVER} cannot be read") from None
    if len(secrets(content)) > MAX_SECRETS:
        raise _too_much(_SECRETS_WORDS)
    return content


def parts(content: Content) -> int:
    """How many Secrets, items, values and directories it names."""
    match content:
        case Files():
            return len(content.sources) + sum(len(s.items or ()) for s in content.sources) + len(content.nested)
        case Variables():
            return len(content.values)


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


def _files(read: Mapping[str, Any]) -> Files:
    sources, nested = _list(read["sources"]), _list(read.get("nested", []))
    # Before anything is made of them.
    _check_parts(len(sources) + len(nested) + sum(len(_list(s.get("items") or [])) for s in sources))
    return Files(
        tuple(_source(s) for s in sources),
        _mode(read["defaultMode"]),
        tuple(check_path(_string(n)) for n in nested),
    )


def _variables(read: Any) -> Variables:
    _check_parts(len(_list(read)))
    return Variables(tuple(_variable(v) for v in read))


def _check_parts(count: int) -> None:
    if count > MAX_PARTS:
        raise _too_much(_PARTS_WORDS)


def _too_much(words: str) -> Malformed:
    return Malformed(f"a volume of {DRIVER} has {words}, which is more than one can hold")


def _source(read: Mapping[str, Any]) -> Source:
    items = read.get("items")
    return Source(
        _name(read["secret"]),
        None if items is None else tuple(_item(i) for i in _list(items)),
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


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _mode(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MODE_MASK:
        raise ValueError
    return value


def _source_text(source: Source) -> dict[str, Any]:
    items = {} if source.items is None else {"items": [_item_text(i) for i in source.items]}
    return {"secret": source.secret} | items | _optional_text(source)


def _item_text(item: Item) -> dict[str, Any]:
    return {"key": item.key, "path": item.path} | ({} if item.mode is None else {"mode": item.mode})


def _variable_text(variable: Variable) -> dict[str, Any]:
    return {"secret": variable.secret, "key": variable.key} | _optional_text(variable)


def _optional_text(part: Source | Variable) -> dict[str, Any]:
    return {"optional": True} if part.optional else {}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
