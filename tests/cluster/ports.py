"""Free ports on loopback."""

import random
import socket
from typing import Final

_RANGE: Final = range(20000, 32000)
"""Below what Linux gives to outgoing connections: one of those could take the port of a server that restarts."""


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free() -> int:
    """A port that nothing listens on."""
    return next(port for port in random.sample(_RANGE, len(_RANGE)) if is_free(port))
