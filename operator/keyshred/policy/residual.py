"""What running pods hold of a destroyed key's Secrets: files, which the driver empties, and environments, which stay.

The driver says with the pod's own token which volumes it has cleared, the webhook writes that in Events on the pods,
and the controller counts what these say.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from keyshred.policy import volumes
from keyshred.policy.pods import Object, ended, own_volumes
from keyshred.policy.volumes import Files, Variables

_SAID: Final = "the files of Secret {secret} in volume {volume} are emptied and removed: its key {key_id} is destroyed"
_READ: Final = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>\\S+)", _SAID))
_STATUSES: Final = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


class Cleared(NamedTuple):
    """One Secret's files in one volume, which are there no more."""

    pod_uid: str
    volume: str
    secret: str


def said(volume: str, secret: str, key_id: UUID) -> str:
    """The Event's message, for people and for `cleared_by`."""
    return _SAID.format(secret=secret, volume=volume, key_id=key_id)


def cleared_by(event: Object, key_id: UUID) -> Cleared | None:
    """What an Event (core/v1) says was cleared; None where it says nothing of this key."""
    read = _READ.fullmatch(event.get("message") or "")
    if read is None or read["key_id"] != str(key_id):
        return None
    return Cleared(event["involvedObject"].get("uid", ""), read["volume"], read["secret"])


def has_files(pod: Object, volume: str, secret: str) -> bool:
    """Whether that volume of the pod is one of ours with files of that Secret."""
    return any(
        name == volume and isinstance(content, Files) and secret in volumes.secrets(content)
        for name, content in own_volumes(pod)
    )


@dataclass(slots=True)
class Residual:
    """The numbers of one key. Pods that ended count nowhere: their memory is gone with them."""

    environments: int = 0
    """Pods."""
    cleared: int = 0
    """Volumes with files, all of which were cleared."""
    unreached: int = 0
    """Those of which nobody said so."""

    def add(self, pod: Object, dependents: Set[str], cleared: Set[Cleared]) -> None:
        """Counts one pod. `dependents`: names of the key's Secrets in its namespace."""
        if ended(pod) or not _has_run(pod):
            return
        in_environment = False
        for volume, content in own_volumes(pod):
            needed = volumes.secrets(content) & dependents
            if not needed:
                continue
            if isinstance(content, Variables):
                in_environment = True
            elif all(Cleared(pod["metadata"]["uid"], volume, secret) in cleared for secret in needed):
                self.cleared += 1
            else:
                self.unreached += 1
        self.environments += in_environment

    def fields(self) -> dict[str, int]:
        """As the KeyRecord's evidence has it."""
        return {
            "podsWithEnvironment": self.environments,
            "volumesCleared": self.cleared,
            "volumesUnreached": self.unreached,
        }

    def __str__(self) -> str:
        return (
            f"volumes of running pods: cleared {self.cleared}, not reached {self.unreached}; pods that hold values in "
            f"their environment: {self.environments}"
        )


def _has_run(pod: Object) -> bool:
    """Whether a container of it ever started.

    A pod that came after the destruction waits for its volumes, and holds nothing: the kubelet starts none before all
    of them are there.
    """
    status: Mapping[str, Any] = pod.get("status") or {}
    if status.get("phase") not in (None, "Pending"):
        return True
    states = [c.get(s) or {} for kind in _STATUSES for c in status.get(kind) or () for s in ("state", "lastState")]
    return any("running" in state or "terminated" in state for state in states)
