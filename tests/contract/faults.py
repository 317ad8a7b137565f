"""Faults that no token shows when asked: a PKCS#11 module over the real one, which does as a plan says (faults.c)."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.cluster.softhsm import MODULE, SoftHsm

SOURCE = Path(__file__).with_name("faults.c")


@dataclass(frozen=True)
class Faults:
    """The module and its plan."""

    module: Path
    plan: Path

    @classmethod
    def build(cls, directory: Path) -> Self:
        """Compiles the module into the directory. Raises CalledProcessError."""
        module = directory / "faults.so"
        if not module.exists():
            subprocess.run(["cc", "-shared", "-fPIC", "-o", str(module), str(SOURCE), "-ldl"], check=True)
        return cls(module, directory / "plan")

    @property
    def env(self) -> dict[str, str]:
        """What a process must have in its environment before it loads the module."""
        return {"FAULTS_MODULE": str(MODULE), "FAULTS_PLAN": str(self.plan)}

    def uri_of(self, token: SoftHsm) -> str:
        """The token's URI, by way of this module."""
        return token.uri.replace(quote(str(MODULE)), quote(str(self.module)))

    def arrange(self, function: str, answer: int | str, once: bool = False) -> None:
        """From now on, or the next time only: a function (`C_Encrypt`) answers with this CKR, or hangs (`hang`)."""
        written = self.plan.with_suffix(".new")
        written.write_text(f"{function} {answer}{' once' if once else ''}\n")
        written.rename(self.plan)

    def clear(self) -> None:
        """Everything works again, also what hangs."""
        self.plan.unlink(missing_ok=True)

    def preloaded(self) -> dict[str, str]:
        """The environment of a process that can be killed at one of its changes to SoftHSM's files."""
        return os.environ | {"LD_PRELOAD": str(self.module), "PYTHONPATH": os.pathsep.join(sys.path)}
