"""Places where a test may kill the controller, or stop it for a while."""

import os
import signal
from typing import Final

VARIABLE: Final = "KEYSHRED_FAULTPOINT"


def faultpoint(name: str) -> None:
    """Dies here by SIGKILL where the environment says `name`, stops by SIGSTOP, once, where `stop:name`."""
    match os.environ.get(VARIABLE, "").rpartition(":"):
        case ("stop", _, wanted) if wanted == name:
            # Once: the job may be tried again before a process that lost its Lease has ended.
            del os.environ[VARIABLE]
            os.kill(os.getpid(), signal.SIGSTOP)
        case ("", _, wanted) if wanted == name:
            os.kill(os.getpid(), signal.SIGKILL)
