"""File systems of memory for volumes. An OSError of the kernel passes through: the kubelet tries again."""

import contextlib
import ctypes
import errno
import functools
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

ROOT_MODE: Final = 0o1777
"""Of a volume's own directory: the kubelet puts Secrets in an emptyDir of memory, mounted without a mode
(k8s pkg/volume/emptydir, setupTmpfs), and this is what the kernel then gives."""

_FLAGS: Final = 0x2 | 0x4
"""MS_NOSUID and MS_NODEV. Not MS_NOEXEC: a Secret can hold a script, and the kubelet's volumes let it run."""
_MNT_DETACH: Final = 0x2
_UMOUNT_NOFOLLOW: Final = 0x8
_DELETED: Final = "//deleted"
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_READS: Final = 10
_PAGE: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of /proc/self/mountinfo."""

    device: str
    root: str
    point: str
    kind: str


def mount(target: Path, size: int) -> None:
    """Mounts a file system of memory of at most `size` bytes at `target`, which is made; one that is there stays."""
    target.mkdir(0o750, parents=True, exist_ok=True)
    if is_mounted(target):
        return
    # Inodes are of memory, too, and an empty file takes no page of `size`.
    options = f"size={size},nr_inodes={size // _PAGE},mode={ROOT_MODE:o}"
    try:
        _mount(target, f"{options},noswap")
    except OSError as error:
        # Kernels before 6.4 do not know the word, and within user namespaces it is not allowed.
        if error.errno != errno.EINVAL:
            raise
        _mount(target, options)
        _say_no_noswap()


def is_mounted(target: Path) -> bool:
    """Whether a tmpfs is what is mounted at `target`."""
    found = _at(target)
    return found is not None and found.kind == "tmpfs"


def bound_from(target: Path) -> dict[Path, str]:
    """Where parts of the volume at `target` are mounted too (subPath), and their paths in it, removed or not."""
    volume = _at(target)
    if volume is None or volume.root != "/":
        return {}
    return {
        Path(m.point): m.root.removesuffix(_DELETED)[1:]
        for m in _mounts()
        if m.device == volume.device and m.root != "/"
    }


def unmount(target: Path) -> None:
    """Unmounts and removes `target`, busy or not; one that is not mounted or not there is fine."""
    while _at(target) is not None:
        try:
            _unmount(target, _UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _unmount(target, _UMOUNT_NOFOLLOW | _MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        target.rmdir()


@functools.cache
def _say_no_noswap() -> None:
    log.warning("this kernel takes no noswap for tmpfs: with swap on, unsealed files can reach the disk")


def _at(target: Path) -> _Mount | None:
    """What is mounted there, the topmost."""
    # The kernel writes paths without links: /var/lib/kubelet itself can be one.
    point = os.path.realpath(target)
    return next((m for m in reversed(_mounts()) if m.point == point), None)


def _mounts() -> list[_Mount]:
    mounts = []
    # Of what could end a line, the kernel escapes \n alone.
    for line in os.fsdecode(_mountinfo()).strip("\n").split("\n"):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        mounts.append(_Mount(fields[2], _unescaped(fields[3]), _unescaped(fields[4]), after.split(" ")[0]))
    return mounts


def _mountinfo() -> bytes:
    # Kernels before 5.8 pass over lines while others mount or unmount, and a volume mounted twice is lost to its pod.
    last = b""
    for _ in range(_READS):
        if (read := _MOUNTINFO.read_bytes()) == last:
            break
        last = read
    return read


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path)


def _mount(target: Path, options: str) -> None:
    _check(_libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", ctypes.c_ulong(_FLAGS), options.encode()), target)


def _unmount(target: Path, flags: int) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), target)


def _check(result: int, target: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
