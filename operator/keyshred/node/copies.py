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
from keyshred.node.descriptors import has, opened, truncate, write_all
from keyshred.node.payload import File
from keyshred.policy.pod_terms import ENV_VOLUME

_NEW: Final = ".keyshred-new"


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
        if not has(copy.name, copy.parent, data):
            _replace(copy, data)


def empty(directory: Path, paths: Set[str]) -> None:
    """Empties those of these paths: what needs one of them does not start again. OSErrors pass through."""
    for _, copy in _found(directory, paths):
        truncate(copy.name, copy.parent)


def _found(directory: Path, paths: Set[str]) -> Iterator[tuple[str, _Copy]]:
    # Not of memory: then it is none that the webhook has made, and no value may get to a disk.
    if not mounts.is_mounted(directory):
        return
    for path in sorted(paths):
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError, NotADirectoryError):
            *folders, name = path.split("/")
            parent = stack.enter_context(opened(directory))
            for one in folders:
                parent = stack.enter_context(opened(one, parent))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name + _NEW, dir_fd=parent)  # of a driver that died half-way
            status = os.lstat(name, dir_fd=parent)
            if stat.S_ISREG(status.st_mode):
                yield path, _Copy(parent, name, status)


def _replace(copy: _Copy, data: bytes) -> None:
    """At once: the kubelet may be reading."""
    new, flags = copy.name + _NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600, dir_fd=copy.parent), "wb", buffering=0) as file:
            write_all(file.fileno(), data)
            # In this order: a change of owner takes mode bits away.
            os.fchown(file.fileno(), copy.status.st_uid, copy.status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(copy.status.st_mode))
        os.replace(new, copy.name, src_dir_fd=copy.parent, dst_dir_fd=copy.parent)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=copy.parent)
        raise
