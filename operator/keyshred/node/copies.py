"""The files that a pod's environments are filled from: its init container copied them out of a volume of ours.

The kubelet reads them again where a container of the pod starts again. Natively such a container has the values of that
moment, so they follow the volume; and of a destroyed key it can have none. Nothing here follows a link of the pod's.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Final, NamedTuple

from keyshred.node import mounts
from keyshred.node.payload import File
from keyshred.policy.pod_terms import ENV_VOLUME

_NEW: Final = ".keyshred-new"
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_WAIT: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Copy(NamedTuple):
    parent: int
    """Descriptor of the directory that it is in."""
    name: str
    status: os.stat_result


def folder(target: Path) -> Path:
    """Where the pod has them, by the target of a volume of its (Kubernetes, pkg/volume/emptydir, getPath)."""
    return target.parents[2] / "kubernetes.io~empty-dir" / ENV_VOLUME


def renew(directory: Path, files: Mapping[str, File]) -> None:
    """Gives those that are there the data of now; others are the init container's to make. OSErrors pass through."""
    for path, copy in _found(directory, files.keys()):
        data = files[path].data
        if not _has(copy, data):
            _replace(copy, data)


def empty(directory: Path, paths: Set[str]) -> None:
    """Empties those of these paths: what needs one of them does not start again. OSErrors pass through."""
    for _, copy in _found(directory, paths):
        with _opened(copy, os.O_WRONLY) as file:
            os.ftruncate(file, 0)


def _found(directory: Path, paths: Set[str]) -> Iterator[tuple[str, _Copy]]:
    # Not of memory: then it is none that the webhook has made, and no value may get to a disk.
    if not mounts.is_mounted(directory):
        return
    for path in sorted(paths):
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError, NotADirectoryError):
            *folders, name = path.split("/")
            parent = _enter(stack, directory, None)
            for one in folders:
                parent = _enter(stack, one, parent)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name + _NEW, dir_fd=parent)  # of a driver that died half-way
            status = os.lstat(name, dir_fd=parent)
            if stat.S_ISREG(status.st_mode):
                yield path, _Copy(parent, name, status)


def _enter(stack: contextlib.ExitStack, name: str | Path, parent: int | None) -> int:
    descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    stack.callback(os.close, descriptor)
    return descriptor


@contextlib.contextmanager
def _opened(copy: _Copy, access: int) -> Iterator[int]:
    descriptor = os.open(copy.name, access | _NO_WAIT, dir_fd=copy.parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has(copy: _Copy, data: bytes) -> bool:
    if copy.status.st_size != len(data):
        return False
    with _opened(copy, os.O_RDONLY) as descriptor, open(descriptor, "rb", closefd=False) as file:
        return file.read(len(data)) == data


def _replace(copy: _Copy, data: bytes) -> None:
    """At once: the kubelet may be reading."""
    new, flags = copy.name + _NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_WAIT
    try:
        with open(os.open(new, flags, 0o600, dir_fd=copy.parent), "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) or 0 :]
            # In this order: a change of owner takes mode bits away.
            os.fchown(file.fileno(), copy.status.st_uid, copy.status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(copy.status.st_mode))
        os.replace(new, copy.name, src_dir_fd=copy.parent, dst_dir_fd=copy.parent)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=copy.parent)
        raise
