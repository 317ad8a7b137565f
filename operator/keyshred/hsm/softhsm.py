"""SoftHSM keeps each object in a file, syncs none, and takes a missing file for a missing object: made up for here."""

import os
from pathlib import Path
from typing import Final

_DEFAULT_CONF: Final = Path("/etc/softhsm/softhsm2.conf")


def is_softhsm(manufacturer: str, model: str) -> bool:
    """Whether a token with this C_GetTokenInfo is SoftHSM: its keys are files."""
    return "softhsm" in f"{manufacturer} {model}".lower()


def sync(serial: str) -> None:
    """fsync every file of a token and its folder: a power cut takes back no made key and gives back no destroyed one.

    Raises OSError where it cannot: the caller must not say that the key is made, or gone.
    """
    folder = _folder(serial)
    for path in (*folder.iterdir(), folder):
        _fsync(path)


def object_count(serial: str) -> int:
    """Object files of a token. Raises OSError if its folder is away, or is not of the `file` backend."""
    names = [path.name for path in _folder(serial).iterdir() if path.suffix == ".object"]
    if "token.object" not in names:
        raise FileNotFoundError("SoftHSM must have objectstore.backend = file")
    return len(names) - 1


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
