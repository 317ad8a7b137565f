"""The user PIN: read from its file at each login, and never offered again once the token refused it.

A token locks itself after a few wrong PINs, for keyshred and for everybody else, so a wrong one must not be tried
twice: not at the next call, and not by the next process either, or a pod that restarts would use up the tries.
"""

import fcntl
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keyshred.errors import ConfigInvalid, PinRefused

MAX_PIN_BYTES: Final = 255
_SALT: Final = 16
_log = logging.getLogger(__name__)


class PinFile:
    """One PIN file, and what the token said of the PIN in it.

    path: mounted Secret or the like. refused: a file that outlives the process, in a directory that all processes with
    this PIN file share and nobody else can read (a memory emptyDir); without it, only this process remembers.
    """

    def __init__(self, path: Path, refused: Path | None = None) -> None:
        self._path = path
        self._refused_file = refused
        self._refused = b""
        self._warned = False

    @contextmanager
    def offer(self) -> Iterator[str]:
        """The PIN, for one login. A PinRefused that the body raises is remembered.

        Raises ConfigInvalid if the file cannot serve, PinRefused if this very PIN was refused before.
        """
        with self._turn():
            pin = self._read()
            if self._was_refused(pin):
                raise PinRefused("the token refused this PIN before; it is not tried again: correct the file")
            try:
                yield pin
            except PinRefused:
                self._remember(pin)
                raise

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = file.read(MAX_PIN_BYTES + 3)
        except OSError as error:
            raise ConfigInvalid(f"PIN file {self._path}: {error.strerror}") from None
        # Refusing world-readable would refuse every Secret volume with its default mode, where a pod's own file
        # system is the fence; write access is another matter: who writes the PIN can use up the token's tries.
        if mode & stat.S_IWOTH:
            raise ConfigInvalid(f"PIN file {self._path}: everybody may write it")
        if mode & stat.S_IROTH and not self._warned:
            self._warned = True
            _log.warning("PIN file %s: everybody may read it; mode 0440 or 0400 would do", self._path)
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        if not 0 < len(raw) <= MAX_PIN_BYTES:
            raise ConfigInvalid(f"PIN file {self._path}: not 1 to {MAX_PIN_BYTES} bytes")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ConfigInvalid(f"PIN file {self._path}: not UTF-8") from None

    def _was_refused(self, pin: str) -> bool:
        return any(
            secrets.compare_digest(known, _digest(pin, known[:_SALT]))
            for known in (self._refused, self._recall())
            if known
        )

    def _remember(self, pin: str) -> None:
        self._refused = _digest(pin, secrets.token_bytes(_SALT))
        if self._refused_file:
            self._refused_file.write_bytes(self._refused)

    def _recall(self) -> bytes:
        return self._refused_file.read_bytes() if self._refused_file else b""

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One login at a time among the processes that share the file, so that the second sees the first one's end."""
        if self._refused_file is None:
            yield
            return
        try:
            descriptor = os.open(self._refused_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigInvalid(f"file of refused PINs {self._refused_file}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _digest(pin: str, salt: bytes) -> bytes:
    # Slow on purpose: a PIN is short, and the file may be read by who cannot read the PIN file.
    return salt + hashlib.scrypt(pin.encode(), salt=salt, n=1 << 14, r=8, p=1)
