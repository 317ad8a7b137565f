"""Makes a SoftHSM token: what python-pkcs11 has no call for, so that SoftHSM's own tool is asked."""

import errno
import os
import pty
import re
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from keyshred.errors import ConfigInvalid, TokenBroken

_TOOL: Final = "softhsm2-util"
_SLOT: Final = re.compile(r"^ +Serial number: *(\w+) *$.*?^ +Label: *(.*?) *$", re.MULTILINE | re.DOTALL)
_SECONDS: Final = 10.0
"""That it may stay silent."""
_PROMPTS: Final = (b"SO PIN", b"SO PIN", b"user PIN", b"user PIN")
"""Each is asked for twice."""


def serial_of(folder: Path, label: str) -> str | None:
    """Serial number of the token with this label among those in `folder`; None: there is none.

    Raises ConfigInvalid where the tool does not work, TokenBroken for two of them.
    """
    # SoftHSM does not start where the folder is missing.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        # Not the module in this process: at its end it cleans OpenSSL up, which Python's TLS connections need.
        env = _configured(Path(work), folder)
        try:
            done = subprocess.run([_TOOL, "--show-slots"], env=env, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise ConfigInvalid(f"{_TOOL} is not installed") from None
    if done.returncode:
        raise ConfigInvalid(f"{_TOOL} does not see the tokens in {folder}: it ended with {done.returncode}")
    serials = [serial for serial, found in _SLOT.findall(done.stdout) if found.strip() == label]
    if len(serials) > 1:
        raise TokenBroken(f"{len(serials)} tokens with the label {label} are in {folder}: keep the one with the keys")
    return serials[0] if serials else None


def make(folder: Path, label: str, pin: str, so_pin: str) -> None:
    """A new token in `folder`, whole or not at all, and on disk. Raises ConfigInvalid if the tool does not want to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Beside it, on the same file system: a rename is what makes it appear.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as work:
        tokens = Path(work) / "tokens"
        tokens.mkdir(mode=0o700)
        _initialise(label, [so_pin, so_pin, pin, pin], _configured(Path(work), tokens))
        made = next(tokens.iterdir())
        for path in (*made.iterdir(), made):
            _fsync(path)
        shutil.move(made, folder / made.name)
    _fsync(folder)


def set_aside(folder: Path) -> Path:
    """Renames the folder of tokens, so that a new one begins; nothing is lost. Returns its new name."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    folder.rename(aside)
    _fsync(folder.parent)
    return aside


def _configured(work: Path, tokens: Path) -> dict[str, str]:
    """An environment in which SoftHSM has its tokens there."""
    conf = work / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    return os.environ | {"SOFTHSM2_CONF": str(conf)}


def _initialise(label: str, answers: list[str], env: dict[str, str]) -> None:
    """Runs the tool at a terminal of its own: on its command line everybody on the node could read the PINs."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [_TOOL, "--init-token", "--free", "--label", label],
            env=env,
            # All three: it would keep its prompts in a buffer before a pipe.
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as tool:
            os.close(theirs)
            try:
                for prompt, answer in zip(_PROMPTS, answers, strict=True):
                    # What is typed before it asks is thrown away: it switches the echo off first.
                    _read_until(prompt, ours)
                    os.write(ours, f"{answer}\n".encode())
                _read_until(b"", ours)
            except TimeoutError:
                tool.kill()  # it asks for ever for a PIN that it likes
    except FileNotFoundError:
        raise ConfigInvalid(f"{_TOOL} is not installed") from None
    finally:
        os.close(ours)
    if tool.returncode:
        raise ConfigInvalid(f"{_TOOL} could not make a token: it ended with {tool.returncode}")


def _read_until(prompt: bytes, terminal: int) -> None:
    """Returns when the tool has written this prompt, or has ended; without a prompt, when it has ended.

    Raises TimeoutError.
    """
    said = b""
    while not (prompt and prompt in said and said.rstrip().endswith(b":")):
        if not select.select([terminal], [], [], _SECONDS)[0]:
            raise TimeoutError
        try:
            said += os.read(terminal, 4096)
        except OSError as error:
            if error.errno == errno.EIO:  # nobody has the other side open any more
                return
            raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
