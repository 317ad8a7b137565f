"""Writes the files of a volume so that they change all at once, as k8s pkg/volume/util/atomic_writer.go does.

The files are in a directory of their own, named for the time; the link `..data` points to it, and what users see are
links through `..data`. Renaming a new `..data` over the old one is the change.

The caller makes one call at a time for a volume. OSErrors pass through; the volume then shows the old files or the new
ones, and the next write puts the rest in order. Containers mount it read-only, but for a pod that somebody wrote by
hand: nothing here follows its links out of the volume, waits for its pipes or reads more of its files than was written.
"""

import contextlib
import errno
import logging
import os
import posixpath
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Final

from keyshred.errors import Malformed
from keyshred.node import mounts
from keyshred.node.descriptors import has, opened, truncate, write_all
from keyshred.node.payload import File
from keyshred.policy import volumes

log = logging.getLogger(__name__)

DATA: Final = "..data"
NEW_DATA: Final = "..data_tmp"
GENERATION: Final = re.compile(r"\.\.\d{4}(_\d\d){5}\.\d+")
"""Names of directories that hold, held or were to hold the files."""

_DIRECTORY_MODE: Final = 0o755
# What an fsGroup adds on a read-only volume (k8s pkg/volume/volume_linux.go, changeFilePermission).
_GROUP_FILE: Final = 0o440
_GROUP_DIRECTORY: Final = stat.S_ISGID | 0o110 | _GROUP_FILE

_MAX_NAME: Final = 255
_MAX_PATH: Final = 4096


def is_written(directory: Path) -> bool:
    """Whether the volume shows what a call of `write` made of it."""
    with opened(directory) as volume:
        return _current(volume) is not None


def write(directory: Path, payload: Mapping[str, File], gid: int | None, nested: Iterable[str] = ()) -> bool:
    """Makes the volume hold exactly this payload. `gid`: the fsGroup. Whether its files changed.

    `nested`: directories that containers have other volumes mounted on; they hide what the payload has there.
    Raises Malformed for paths that leave the volume or exclude each other; nothing is written then.
    """
    files = _checked(payload)
    folders = _checked_nested(nested)
    with opened(directory) as volume:
        current = _current(volume)
        _remove_leftovers(volume, current)
        changed = current is None or not _holds(volume, current, files, gid)
        if changed:
            new = _new_generation(volume)
            try:
                with opened(new, volume) as generation:
                    _write_files(generation, files, gid)
                    _own_directory(generation, gid, _DIRECTORY_MODE)
                if gid is not None:
                    _own_directory(volume, gid, stat.S_IMODE(os.fstat(volume).st_mode))
                _link(volume, NEW_DATA, new, gid)
                os.replace(NEW_DATA, DATA, src_dir_fd=volume, dst_dir_fd=volume)
            except OSError:
                _remove_leftovers(volume, current)
                raise
        # Before the links, as the kubelet has it (k8s pkg/volume/util/nested_volumes.go).
        for folder in folders:
            _make_folders(volume, folder.split("/"), gid)
        _show(volume, {path.split("/")[0] for path in files}, gid)
        if changed and current is not None:
            shutil.rmtree(current, dir_fd=volume)
        return changed


def empty(directory: Path, keep: Mapping[str, File], also_former: Set[str] = frozenset()) -> None:
    """Empties, in place, every file that `keep` has not under the same path with the same data.

    For values that must go now: a container that mounted a file by subPath keeps its inode whatever replaces the file.
    What such mounts still have of earlier updates of what is kept stays, but for files of the Secrets `also_former`.
    Raises Malformed as `write` does.
    """
    keep = _checked(keep)

    def stays(path: str, name: str, parent: int | None) -> bool:
        return path in keep and has(name, parent, keep[path].data)

    def stays_mounted(path: str, name: str) -> bool:
        return path in keep and (keep[path].secret not in also_former or has(name, None, keep[path].data))

    _empty(directory, stays, stays_mounted)


def empty_paths(directory: Path, paths: Set[str]) -> None:
    """Empties, in place, the files of these paths, of now and of earlier updates. The others stay, and so do names."""
    doomed = {_checked_path(path) for path in paths}
    _empty(directory, lambda path, name, parent: path not in doomed, lambda path, name: path not in doomed)


def _empty(directory: Path, stays: Callable[[str, str, int], bool], stays_mounted: Callable[[str, str], bool]) -> None:
    with opened(directory) as volume:
        for generation in _generations(volume):
            with opened(generation, volume) as inside:
                for path, name, parent in _walk(inside):
                    if not stays(path, name, parent):
                        truncate(name, parent)
    # Inodes of earlier updates, which only those mounts still have.
    for mounted, inner in mounts.bound_from(directory).items():
        generation, _, path = inner.partition("/")
        if not GENERATION.fullmatch(generation) or not path:
            continue
        try:
            if not stays_mounted(path, str(mounted)):
                truncate(str(mounted), None)
        except (FileNotFoundError, IsADirectoryError):
            pass
        except OSError as error:
            # The other files must go all the same.
            log.error("a value stays readable at %s until its pod ends: %s", mounted, error.strerror)


def _checked(payload: Mapping[str, File]) -> dict[str, File]:
    try:
        files = {_checked_path(path): file for path, file in payload.items()}
    except ValueError:
        raise Malformed("a path of a file is not one inside the volume") from None
    for path in files:
        if any(str(parent) in files for parent in Path(path).parents):
            raise Malformed(f"the path {path} is below that of another file of the volume")
    return files


def _checked_nested(nested: Iterable[str]) -> list[str]:
    try:
        return [_checked_path(path) for path in nested]
    except ValueError:
        raise Malformed("a directory for another volume is not one inside the volume") from None


def _checked_path(path: str) -> str:
    volumes.check_path(path)
    # Once more: "./..data" is what the first look lets through.
    clean = volumes.check_path(posixpath.normpath(path))
    if clean == "." or len(path) > _MAX_PATH or any(len(os.fsencode(p)) > _MAX_NAME for p in clean.split("/")):
        raise ValueError(path)
    return clean


def _current(volume: int) -> str | None:
    """The name of the directory that users see, if there is one."""
    name = _target(volume, DATA)
    return name if name in _generations(volume) else None


def _target(volume: int, link: str) -> str | None:
    try:
        return os.readlink(link, dir_fd=volume)
    except OSError:
        return None


def _generations(volume: int) -> list[str]:
    with os.scandir(volume) as entries:
        return [e.name for e in entries if GENERATION.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]


def _remove_leftovers(volume: int, current: str | None) -> None:
    """Of a writer that died half-way."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(NEW_DATA, dir_fd=volume)
    for name in _generations(volume):
        if name != current:
            shutil.rmtree(name, dir_fd=volume)


def _new_generation(volume: int) -> str:
    while True:
        name = f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{secrets.randbelow(2**32)}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=volume)
            return name


def _holds(volume: int, generation: str, files: Mapping[str, File], gid: int | None) -> bool:
    found = set()
    with opened(generation, volume) as inside:
        for path, name, parent in _walk(inside):
            file, there = files.get(path), os.lstat(name, dir_fd=parent)
            if file is None or stat.S_IMODE(there.st_mode) != _mode(file, gid) or gid not in (None, there.st_gid):
                return False
            if not has(name, parent, file.data):
                return False
            found.add(path)
    return len(found) == len(files)


def _walk(directory: int) -> Iterator[tuple[str, str, int]]:
    """Of each file: its path, its name, and the descriptor of the directory that it is in."""
    for root, _, names, parent in os.fwalk(".", dir_fd=directory, onerror=_raise):
        for name in names:
            if stat.S_ISREG(os.lstat(name, dir_fd=parent).st_mode):
                yield posixpath.normpath(f"{root}/{name}"), name, parent


def _raise(error: OSError) -> None:
    raise error


def _write_files(generation: int, files: Mapping[str, File], gid: int | None) -> None:
    for path, file in files.items():
        *folders, name = path.split("/")
        with contextlib.ExitStack() as stack:
            parent = _enter_folders(stack, generation, folders, gid)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(name, flags, 0o600, dir_fd=parent), "wb", buffering=0) as made:
                write_all(made.fileno(), file.data)
                _own(made.fileno(), gid, _mode(file, gid))


def _make_folders(volume: int, folders: list[str], gid: int | None) -> None:
    try:
        with contextlib.ExitStack() as stack:
            _enter_folders(stack, volume, folders, gid)
    except OSError as error:
        # A link of the pod's, for one, which leads anywhere.
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise Malformed(f"no directory can be made for the volume below at {'/'.join(folders)}") from None


def _enter_folders(stack: contextlib.ExitStack, parent: int, folders: list[str], gid: int | None) -> int:
    """Makes folders in each other where they are not there; the descriptor of the last."""
    for folder in folders:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700, dir_fd=parent)
        parent = stack.enter_context(opened(folder, parent))
        _own_directory(parent, gid, _DIRECTORY_MODE)
    return parent


def _mode(file: File, gid: int | None) -> int:
    return file.mode if gid is None else file.mode | _GROUP_FILE


def _own_directory(descriptor: int, gid: int | None, mode: int) -> None:
    _own(descriptor, gid, mode if gid is None else mode | _GROUP_DIRECTORY)


def _own(descriptor: int, gid: int | None, mode: int) -> None:
    # In this order: a change of owner takes mode bits away.
    if gid is not None:
        os.fchown(descriptor, -1, gid)
    os.fchmod(descriptor, mode)


def _link(volume: int, name: str, target: str, gid: int | None) -> None:
    os.symlink(target, name, dir_fd=volume)
    if gid is not None:
        os.chown(name, -1, gid, dir_fd=volume, follow_symlinks=False)


def _show(volume: int, names: set[str], gid: int | None) -> None:
    """Has a link for each of the names, and for no other. What is no link of ours stays."""
    with os.scandir(volume) as entries:
        there = {e.name for e in entries}
    for name in names - there:
        _link(volume, name, f"{DATA}/{name}", gid)
    for name in there - names:
        if _target(volume, name) == f"{DATA}/{name}":
            os.unlink(name, dir_fd=volume)
