"""How much of a pod is planned for: whoever may create pods has the webhook work on them."""

from dataclasses import dataclass
from typing import Final

from keyshred.policy.pod_terms import refused

MAX_PARTS: Final = 4096
"""Volumes, their sources and items, containers, their variables, sources of variables and mounts, of a whole pod."""
MAX_VARIABLES: Final = 4096
"""Variables that come from us, in all containers. As many as a sealed Secret can have keys."""
MAX_RECORD: Final = 256 * 1024
"""Characters of what is kept of the native form: the API server's limit on all annotations, in bytes."""
MAX_NAMED: Final = 256
"""Secrets and ConfigMaps that are read for one pod."""
MAX_KEYS: Final = 64 * 4096
"""Keys that these have together."""
_MAX_COMPARED: Final = 64 * 4096
"""Look-ups of variables in later sources."""
_MAX_PREFIXES: Final = 256 * 1024
"""Characters that prefixes add to the names of variables."""

_LESS_ENVIRONMENT: Final = "mount the Secret as files, or name the variables that are needed in env"


@dataclass(slots=True)
class Room:
    """What is left for the environments of one pod."""

    variables: int = MAX_VARIABLES
    compared: int = _MAX_COMPARED
    prefixes: int = _MAX_PREFIXES

    def take(self, where: str, variables: int, prefix: str = "") -> None:
        """Makes room for variables of ours, before they are made. Raises Refused where there is none."""
        self.variables -= variables
        self.prefixes -= variables * len(prefix)
        if self.variables < 0:
            raise refused(where, f"the pod has more than {MAX_VARIABLES:,} variables from Secrets", _LESS_ENVIRONMENT)
        if self.prefixes < 0:
            raise refused(where, "the prefix makes the names of all variables too long", "use a shorter one")

    def compare(self, where: str, count: int) -> None:
        """The same for look-ups of variables in a source that is not ours."""
        self.compared -= count
        if self.compared < 0:
            why = "which source a variable comes from takes too long to find out"
            raise refused(where, why, "use fewer sources after the Secrets, or name the variables in env")
