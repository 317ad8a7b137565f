"""A fresh SoftHSM token in a directory of its own: the PKCS#11 token of tests, of the demo and of evaluation."""

import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

MODULE = Path(os.environ.get("KEYSHRED_SOFTHSM_MODULE", "/usr/lib/softhsm/libsofthsm2.so"))


@dataclass(frozen=True)
class SoftHsm:
    """One directory: `softhsm2.conf`, `tokens/`, `pin` and `so-pin` (mode 0600)."""

    directory: Path
    label: str

    @classmethod
    def create(cls, directory: Path, label: str = "keyshred") -> Self:
        """Make directory and token, with random PINs. Raises CalledProcessError if softhsm2-util does not want to."""
        hsm = cls(directory.absolute(), label)
        (hsm.directory / "tokens").mkdir(mode=0o700, parents=True)
        hsm.conf.write_text(
            f"directories.tokendir = {hsm.directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        for file in (hsm.pin_file, hsm.so_pin_file):
            _write_private(file, secrets.token_urlsafe(18))
        hsm.add_token(label)
        return hsm

    def add_token(self, label: str) -> None:
        """One more token with the same PINs."""
        # The PINs of a throw-away token may be seen in the process list; those of a real one must not.
        pins = ["--pin", self.pin_file.read_text(), "--so-pin", self.so_pin_file.read_text()]
        subprocess.run(
            ["softhsm2-util", "--module", str(MODULE), "--init-token", "--free", "--label", label, *pins],
            env=os.environ | self.env,
            check=True,
            capture_output=True,
        )

    @property
    def conf(self) -> Path:
        return self.directory / "softhsm2.conf"

    @property
    def pin_file(self) -> Path:
        """The user PIN, without a newline."""
        return self.directory / "pin"

    @property
    def so_pin_file(self) -> Path:
        return self.directory / "so-pin"

    @property
    def env(self) -> dict[str, str]:
        """What a process must have in its environment before it loads the module."""
        return {"SOFTHSM2_CONF": str(self.conf)}

    @property
    def uri(self) -> str:
        """The RFC 7512 URI that keyshred is configured with."""
        return self.uri_of(self.label)

    def uri_of(self, label: str) -> str:
        """The URI of another token in the same directory."""
        query = f"module-path={quote(str(MODULE))}&pin-source=file:{quote(str(self.pin_file))}"
        return f"pkcs11:token={quote(label, safe='')}?{query}"

    def take_away(self) -> None:
        """Pull the token out, as far as a process that uses it can see."""
        (self.directory / "tokens").rename(self.directory / "tokens.away")

    def give_back(self) -> None:
        """Put it in again."""
        (self.directory / "tokens.away").rename(self.directory / "tokens")


def _write_private(file: Path, text: str) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
