"""What is known of the namespaces that keyshred looks at: Secrets by their metadata; who needs them as they are."""

import asyncio
from collections.abc import Callable, Set
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from keyshred.kube.client import Json, Kube, path
from keyshred.kube.mirror import Mirror, Turns
from keyshred.policy import holders
from keyshred.policy.coverage import Place
from keyshred.policy.found import Found, Holder, read_secret
from keyshred.policy.lifecycle import Dependents, Tally
from keyshred.times import utc_now

T = TypeVar("T")

_Mirrors = dict[str, tuple[Mirror[T], asyncio.Task[None]]]
"""By namespace."""

_APPS: Final = {"group": "apps", "version": "v1"}
_BATCH: Final = {"group": "batch", "version": "v1"}
_HOLDERS: Final[dict[str, tuple[dict[str, str], Callable[[Json], Holder]]]] = {
    "Pod": ({"resource": "pods"}, holders.read_pod),
    "Ingress": ({"resource": "ingresses", "group": "networking.k8s.io", "version": "v1"}, holders.read_ingress),
    "Gateway": ({"resource": "gateways", "group": "gateway.networking.k8s.io", "version": "v1"}, holders.read_gateway),
    "Deployment": ({"resource": "deployments", **_APPS}, partial(holders.read_template, "Deployment")),
    "StatefulSet": ({"resource": "statefulsets", **_APPS}, partial(holders.read_template, "StatefulSet")),
    "DaemonSet": ({"resource": "daemonsets", **_APPS}, partial(holders.read_template, "DaemonSet")),
    "ReplicaSet": ({"resource": "replicasets", **_APPS}, partial(holders.read_template, "ReplicaSet")),
    "Job": ({"resource": "jobs", **_BATCH}, partial(holders.read_template, "Job")),
    "CronJob": ({"resource": "cronjobs", **_BATCH}, partial(holders.read_template, "CronJob")),
}
"""By kind: where they are, and what is kept of each."""


class Index:
    """Follows namespaces until it is told otherwise. It needs list and watch there, and waits for that right."""

    def __init__(self, kube: Kube, *, secrets_changed: Callable[[], None], pods_changed: Callable[[], None]) -> None:
        self._kube = kube
        self._secrets_changed = secrets_changed
        self._pods_changed = pods_changed
        self._turns = Turns()
        self._secrets: _Mirrors[Found] = {}
        self._holders: dict[str, _Mirrors[Holder]] = {kind: {} for kind in _HOLDERS}
        """By kind."""
        self._volumes: _Mirrors[dict[str, Holder]] = {}
        """One, under the empty name."""

    def follow(self, secrets: Set[str], holders: Set[str]) -> None:
        """The namespaces to follow from now on, and no others: for their Secrets, and for what needs these."""
        _keep(self._secrets, secrets, self._mirror_secrets)
        for kind, mirrors in self._holders.items():
            _keep(mirrors, holders, partial(self._mirror_holders, kind))
        _keep(self._volumes, {""} if holders else set(), self._mirror_volumes)

    def place(self, namespace: str) -> Place:
        """What is known of a namespace; it changes while the event loop runs."""
        return Place(_listed(self._secrets, namespace), self._held_by(namespace))

    def _held_by(self, namespace: str) -> dict[str, Holder] | None:
        """All that needs Secrets as they are; None: not all of it is listed yet."""
        volumes = _listed(self._volumes, "")
        by_kind = {kind: _listed(mirrors, namespace) for kind, mirrors in self._holders.items()}
        if volumes is None or None in by_kind.values():
            return None
        found = {f"PersistentVolume/{name}": read[namespace] for name, read in volumes.items() if namespace in read}
        for kind, objects in by_kind.items():
            found |= {f"{kind}/{name}": read for name, read in (objects or {}).items()}
        return found

    def count(self, key_id: UUID, namespaces: Set[str]) -> Dependents | None:
        """What only this key can open in these namespaces; None: not all that is in them is known, or not yet."""
        tally = Tally()
        for namespace in namespaces:
            secrets = _listed(self._secrets, namespace)
            if secrets is None or self._secrets[namespace][0].unread:
                return None
            for found in secrets.values():
                if found.sealed is not None and found.sealed.key_id == key_id:
                    tally.add(namespace, found.sealed)
        return tally.result(utc_now())

    def _mirror_secrets(self, namespace: str) -> Mirror[Found]:
        url = path("secrets", namespace=namespace)
        return Mirror(self._kube, url, read_secret, self._secrets_changed, table=True, turns=self._turns)

    def _mirror_holders(self, kind: str, namespace: str) -> Mirror[Holder]:
        where, read = _HOLDERS[kind]
        return Mirror(
            self._kube,
            path(namespace=namespace, **where),
            read,
            self._pods_changed,
            optional=kind == "Gateway",
            essence=holders.essence,
            unreadable=partial(holders.unread, kind),
            turns=self._turns,
        )

    def _mirror_volumes(self, _: str) -> Mirror[dict[str, Holder]]:
        return Mirror(
            self._kube,
            path("persistentvolumes"),
            holders.read_volume,
            self._pods_changed,
            unreadable=holders.unread_volume,
            turns=self._turns,
        )


def _listed(mirrors: _Mirrors[T], namespace: str) -> dict[str, T] | None:
    kept = mirrors.get(namespace)
    return kept[0].objects if kept and kept[0].synced else None


def _keep(mirrors: _Mirrors[T], wanted: Set[str], make: Callable[[str], Mirror[T]]) -> None:
    for namespace in mirrors.keys() - wanted:
        mirrors.pop(namespace)[1].cancel()
    for namespace in wanted - mirrors.keys():
        mirror = make(namespace)
        mirrors[namespace] = mirror, asyncio.create_task(mirror.run())
