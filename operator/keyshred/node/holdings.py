"""What each published volume holds, and which keys it comes from: in this process, and in a file that outlives it.

The file has names and paths, and no value, nor an ETag, which is a hash of values where they are not sealed. It is what
a driver that starts anew knows of files whose Secret is gone by then.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from keyshred.policy.volumes import Content, Files

_KEYS: Final = 8
"""Earlier keys of one Secret that are remembered: each is asked about at every look."""
_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Holding:
    """Of one Secret."""

    paths: frozenset[str] = frozenset()
    """Its files, those aside that another Secret of the volume has won."""
    key_ids: tuple[str, ...] = ()
    """Keys that their values, of now and of before, were sealed under."""

    def after(self, paths: frozenset[str], key_id: str) -> "Holding":
        """With new values under this key; empty: they were not sealed."""
        kept = (*(k for k in self.key_ids if k != key_id), *([key_id] if key_id else []))
        return Holding(paths, kept[-_KEYS:])


@dataclass(slots=True)
class Volume:
    """What is known of a published volume, without its values."""

    content: Content
    group: int | None
    etags: dict[str, str | None] = field(default_factory=dict)
    """By Secret; None: it was not there."""
    gone: frozenset[str] = frozenset()
    """Secrets whose key is destroyed: their files were emptied and removed."""
    held: dict[str, Holding] = field(default_factory=dict)
    """By Secret."""

    def reports(self, secret: str) -> bool:
        """Whether calls for that Secret say so. Not of variables: containers hold copies, which nobody clears."""
        return secret in self.gone and isinstance(self.content, Files)


class Holdings:
    """The files, one for each volume, in a folder of the driver's own. OSErrors pass through."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, target: Path, volume: Volume) -> None:
        """Adds what is known of the volume at `target`; nothing where that cannot be read."""
        try:
            read = json.loads(self._file(target).read_bytes())
            held = {
                str(name): Holding(frozenset(map(str, one["paths"])), tuple(map(str, one["keys"])))
                for name, one in read["secrets"].items()
            }
            volume.held, volume.gone = held, frozenset(map(str, read["gone"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return

    def save(self, target: Path, held: Mapping[str, Holding], gone: Iterable[str]) -> None:
        """Writes it, whole or not at all."""
        secrets = {n: {"paths": sorted(h.paths), "keys": h.key_ids} for n, h in sorted(held.items())}
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._file(target)
        new = file.with_suffix(".new")
        _write(new, {"target": str(target), "secrets": secrets, "gone": sorted(gone)})
        os.replace(new, file)

    def remove(self, target: Path) -> None:
        """Forgets the volume; one that is not known is fine."""
        self._file(target).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes those of volumes that are there no more, as after a node has started anew."""
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if file.suffix == ".json" and Path(json.loads(file.read_bytes())["target"]).exists():
                    continue
            file.unlink(missing_ok=True)

    def _file(self, target: Path) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(target)).hexdigest()[:32]}.json"


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE), "w") as opened:
        json.dump(content, opened)
