import os
import stat
from collections.abc import Mapping
from pathlib import Path

from keyshred.node.atomic_writer import GENERATION, empty, write
from keyshred.node.payload import File

CHOWN, DAC_OVERRIDE, SYS_ADMIN = 0, 1, 21

A = {"user": File(b"admin", 0o644), "tls/key": File(b"k", 0o600), "tls/crt": File(b"c", 0o664)}
B = {"user": File(b"root", 0o644), "tls/deep/er/crt": File(b"c", 0o600), "new": File(b"", 0o777)}


def may(capability: int) -> bool:
    """Whether this process has it: root in a container has few."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(status["CapEff"], 16) >> capability & 1)


def shown(directory: Path) -> dict[str, File]:
    """What a container sees below `directory`."""
    found = {}
    for top in (p for p in directory.iterdir() if not p.name.startswith("..")):
        # rglob goes through no links but where it starts.
        for path in [top, *top.resolve().rglob("*")]:
            if path.is_file():
                name = Path(top.name) if path == top else top.name / path.relative_to(top.resolve())
                found[str(name)] = File(path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    return found


def data(volume: Path) -> dict[str, File]:
    """What a reader sees that resolved `..data` once."""
    return shown((volume / "..data").resolve(strict=True))


def check_scheme(volume: Path, payload: Mapping[str, File]) -> None:
    """That the volume has what AtomicWriter makes of the payload, and nothing else."""
    assert shown(volume) == data(volume) == payload
    generation = os.readlink(volume / "..data")
    assert GENERATION.fullmatch(generation)
    tops = {path.split("/")[0] for path in payload}
    assert set(os.listdir(volume)) == {"..data", generation} | tops
    assert {name: os.readlink(volume / name) for name in tops} == {name: f"..data/{name}" for name in tops}
    folders = [volume / generation, *(p for p in (volume / generation).rglob("*") if p.is_dir())]
    assert {stat.S_IMODE(p.lstat().st_mode) & 0o777 for p in folders} == {0o755}


def states(volume: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, mode and group of everything in it."""
    found = {str(p.relative_to(volume)): p.lstat() for p in [volume, *volume.rglob("*")]}
    return {path: (s.st_ino, s.st_mode, s.st_gid) for path, s in found.items()}


def clear(volume: Path) -> None:
    """As a driver does whose volume has nothing but files of a destroyed key."""
    empty(volume, {})
    write(volume, {}, None)
