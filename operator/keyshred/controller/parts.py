"""What every reconciler works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from keyshred.config import ControllerSettings
from keyshred.controller.index import Index
from keyshred.controller.inventory import Inventory
from keyshred.controller.lease import Lease
from keyshred.controller.token_record import TokenRecord
from keyshred.hsm.service import HsmService
from keyshred.kube.client import Json, Kube, own_path
from keyshred.kube.events import Events
from keyshred.kube.records import Records
from keyshred.names import ROOT_KEYS
from keyshred.policy.lifecycle import Dependents

BY: Final = "keyshred-controller"
"""Who did it, in the ledger and in Events."""
COUNT_SOON: Final = 0.5
"""Seconds: several changes at once are counted once, and a new RoleBinding has reached the API server's authorizer."""


class Kind(StrEnum):
    """What a job is about."""

    RESYNC = "Resync"
    """Everything there is, at start and every now and then."""
    ROOT_KEY = "RootKey"
    RECORD = "KeyRecord"
    NAMESPACES = "Namespaces"
    """Labels, held names and RoleBindings of all namespaces, and the stamps of KeyAuthorizations."""
    NODES = "Nodes"
    """Labels and taints of all nodes."""
    WATCH = "Watch"
    """The watch, anew: CRDs came back."""
    COUNT = "Count"
    """Secrets of all such namespaces, for the status of every KeyAuthorization and RootKey, and for the sweep."""


class Job(NamedTuple):
    """A key of the work queue."""

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(slots=True)
class Parts:
    """The world outside, and what the last count found."""

    settings: ControllerSettings
    kube: Kube
    hsm: HsmService
    records: Records
    events: Events
    lease: Lease
    token_record: TokenRecord
    enqueue: Callable[[Job, float], None]
    """Job and seconds from now."""
    inventory: Inventory = field(default_factory=Inventory)
    dependents: dict[UUID, Dependents] = field(default_factory=dict)
    index: Index = field(init=False)
    """Secrets and pods of the namespaces that keyshred looks at."""
    count_pause: float = COUNT_SOON
    """Seconds after a change until all is counted again: many changes, or much to count, and it is done less often."""

    def __post_init__(self) -> None:
        def secrets_changed() -> None:
            self.enqueue(Job(Kind.COUNT), self.count_pause)

        def pods_changed() -> None:
            secrets_changed()
            self.enqueue(Job(Kind.NAMESPACES), COUNT_SOON)  # what is held may have changed

        self.index = Index(self.kube, secrets_changed=secrets_changed, pods_changed=pods_changed)


def key_id_of(record: Json) -> UUID:
    """The key ID that a KeyRecord is named by."""
    return UUID(record["metadata"]["name"])


async def root_key_by_uid(kube: Kube, uid: str) -> Json | None:
    """The RootKey with this UID, whatever its name; None: there is none (a consistent list)."""
    async for obj in kube.list_all(own_path(ROOT_KEYS)):
        if obj["metadata"]["uid"] == uid:
            return obj
    return None
