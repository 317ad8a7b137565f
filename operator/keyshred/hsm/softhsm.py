"""SoftHSM keeps each object in a file, syncs none, and takes a missing file for a missing object: made up for here.

At each login it also empties the file that holds the token itself, and writes it anew. Who is killed between, or finds
the disk full, has lost the token with all keys; so a copy is kept beside it, and put back.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from keyshred.errors import HsmUnavailable
from keyshred.hsm.pkcs11_token import TokenInfo

_T = TypeVar("_T")

_ON_TOKEN: Final = (0x1).to_bytes(8, "big") + (1).to_bytes(8, "big") + b"\xff"
"""CKA_TOKEN = true in an object file: attribute, kind (boolean), value."""
_OWN_FILE: Final = "token.object"
_COPY: Final = "token.keyshred"
_GENERATION: Final = 8
"""Bytes at the start of a file that count its changes."""
_DEFAULT_CONF: Final = Path("/etc/softhsm/softhsm2.conf")


def is_softhsm(token: TokenInfo) -> bool:
    """Whether the token is SoftHSM: its keys are files."""
    return "softhsm" in f"{token.manufacturer} {token.model}".lower()


def ask(look: Callable[[str], _T], serial: str) -> _T:
    """One of the functions below. Raises HsmUnavailable where the file system does not let it."""
    try:
        return look(serial)
    except OSError as failure:
        raise HsmUnavailable(f"the token's files: {failure.strerror or failure}") from None


def sync(serial: str) -> None:
    """fsync every file of a token and its folder: a power cut takes back no made key and gives back no destroyed one.

    Raises OSError where it cannot: the caller must not say that the key is made, or gone.
    """
    folder = _folder(serial)
    for path in (*folder.iterdir(), folder):
        _fsync(path)


def object_count(serial: str) -> int:
    """Objects of a token by its files. Raises OSError if its folder is away, or is not of the `file` backend."""
    files = [path for path in _folder(serial).iterdir() if path.suffix == ".object"]
    if not any(path.name == _OWN_FILE for path in files):
        raise FileNotFoundError("SoftHSM must have objectstore.backend = file")
    return sum(_is_whole(path) for path in files if path.name != _OWN_FILE)


def keep_copy(serial: str) -> None:
    """Before a login: a copy of the token's own file, on disk. Raises OSError where a login could not write it anew."""
    folder = _folder(serial)
    if why := obstacle(serial):
        raise OSError(f"SoftHSM cannot log in without writing, and {why}")
    copy = folder / _COPY
    if not (now := (folder / _OWN_FILE).read_bytes()):
        raise OSError("another process is logging in")
    if copy.exists() and copy.read_bytes()[_GENERATION:] == now[_GENERATION:]:
        return
    new = copy.with_name(f"{_COPY}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(now)
        file.flush()
        os.fsync(file.fileno())
    new.rename(copy)
    _fsync(folder)


def put_back() -> bool:
    """Whether a token was found that a login left empty, and has its file again. Raises OSError."""
    found = False
    for copy in _token_directory().glob(f"*/{_COPY}"):
        with contextlib.suppress(FileNotFoundError), copy.with_name(_OWN_FILE).open("r+b") as file:
            # Never emptied here: where a login is just about to write the file, either content is whole.
            if not file.seek(0, os.SEEK_END):
                file.write(copy.read_bytes())
                file.flush()
                os.fsync(file.fileno())
                found = True
    return found


def obstacle(serial: str) -> str | None:
    """Why the token's files cannot be written, which SoftHSM answers with CKR_GENERAL_ERROR. Raises OSError."""
    disk = os.statvfs(_folder(serial))
    if disk.f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only: mount it read-write"
    # f_files is 0 where inodes are not counted.
    if not disk.f_bavail or (disk.f_files and not disk.f_favail):
        return "its file system is full: make room"
    return None


def _is_whole(path: Path) -> bool:
    # SoftHSM writes a new object in some thirty steps and makes it one of the token (CKA_TOKEN) near the end, before it
    # has a value. A process that is killed meanwhile, or a full disk, leaves a file that SoftHSM never shows.
    try:
        return _ON_TOKEN in path.read_bytes()
    except FileNotFoundError:
        return False  # unlinked by another process since the listing


def _folder(serial: str) -> Path:
    # The serial is the end of the UUID that the folder is named after.
    for folder in _token_directory().iterdir():
        if folder.name.replace("-", "").endswith(serial):
            return folder
    raise FileNotFoundError("SoftHSM's token directory has no folder for this token")


def _token_directory() -> Path:
    # The same places, in the same order, as SoftHSM's configuration loader.
    own = Path.home() / ".config/softhsm2/softhsm2.conf"
    conf = Path(os.environ.get("SOFTHSM2_CONF") or (own if own.exists() else _DEFAULT_CONF))
    for line in conf.read_text().splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "directories.tokendir":
            return Path(value.strip())
    raise FileNotFoundError("SoftHSM's configuration names no directories.tokendir")


def _fsync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # unlinked by another process since the listing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
