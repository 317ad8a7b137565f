"""Files and directories that a pod may have written, opened without following its links or waiting for its pipes.

OSErrors pass through. `parent`: the descriptor of the directory that a name is in; None: it is a path.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def opened(path: str | Path, parent: int | None = None) -> Iterator[int]:
    """A directory's descriptor."""
    descriptor = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def has(name: str, parent: int | None, data: bytes) -> bool:
    """Whether a file holds exactly that. No more of it is read."""
    with open(os.open(name, os.O_RDONLY | _FILE, dir_fd=parent), "rb") as file:
        return os.fstat(file.fileno()).st_size == len(data) and file.read(len(data)) == data


def truncate(name: str, parent: int | None) -> None:
    """Empties a file in place."""
    descriptor = os.open(name, os.O_WRONLY | _FILE, dir_fd=parent)
    try:
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes it to the end."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
