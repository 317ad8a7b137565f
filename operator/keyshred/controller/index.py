"""What is known of the namespaces that keyshred looks at: Secrets by their metadata; who needs them as they are."""

import asyncio
from collections.abc import Callable, Set
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from keyshred.kube.client import Json, Kube, path
from keyshred.kube.mirror import Mirror
from keyshred.policy import holders
from keyshred.policy.coverage import Place
from keyshred.policy.found import Found, Pod, read_pod, read_secret
from keyshred.policy.lifecycle import Dependents, Tally
from keyshred.times import utc_now

T = TypeVar("T")

_Mirrors = dict[str, tuple[Mirror[T], asyncio.Task[None]]]
"""By namespace."""

_APPS: Final = {"group": "apps", "version": "v1"}
_BATCH: Final = {"group": "batch", "version": "v1"}
_HOLDERS: Final[dict[str, tuple[dict[str, str], Callable[[Json], Pod]]]] = {
    "Ingress": ({"resource": "ingresses", "group": "networking.k8s.io", "version": "v1"}, holders.read_ingress),
    "Gateway": ({"resource": "gateways", "group": "gateway.networking.k8s.io", "version": "v1"}, holders.read_gateway),
    "Deployment": ({"resource": "deployments", **_APPS}, partial(holders.read_template, "Deployment")),
    "StatefulSet": ({"resource": "statefulsets", **_APPS}, partial(holders.read_template, "StatefulSet")),
    "DaemonSet": ({"resource": "daemonsets", **_APPS}, partial(holders.read_template, "DaemonSet")),
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
        self._secrets: _Mirrors[Found] = {}
        self._pods: _Mirrors[Pod] = {}
        self._others: dict[str, _Mirrors[Pod]] = {kind: {} for kind in _HOLDERS}
        """By kind."""
        self._volumes: _Mirrors[dict[str, Pod]] = {}
        """One, under the empty name."""

    def follow(self, secrets: Set[str], pods: Set[str]) -> None:
        """The namespaces to follow from now on, and no others."""
        _keep(self._secrets, secrets, self._mirror_secrets)
        _keep(self._pods, pods, self._mirror_pods)
        for kind, mirrors in self._others.items():
            _keep(mirrors, pods, partial(self._mirror_others, kind))
        _keep(self._volumes, {""} if pods else set(), self._mirror_volumes)

    def place(self, namespace: str) -> Place:
        """What is known of a namespace; it changes while the event loop runs."""
        secrets = self._secrets.get(namespace)
        return Place(secrets[0].objects if secrets and secrets[0].synced else None, self._readers(namespace))

    def _readers(self, namespace: str) -> dict[str, Pod] | None:
        """Pods, and what else needs Secrets as they are; None: not all of it is listed yet."""
        volumes = self._volumes.get("")
        mirrors = [kept.get(namespace) for kept in (self._pods, *self._others.values())]
        if volumes is None or not volumes[0].synced or any(m is None or not m[0].synced for m in mirrors):
            return None
        found: dict[str, Pod] = {}
        for kind, mirror in zip(("Pod", *self._others), mirrors, strict=True):
            found |= {f"{kind}/{name}": read for name, read in mirror[0].objects.items()} if mirror else {}
        return found | {f"/{n}": v[namespace] for n, v in volumes[0].objects.items() if namespace in v}

    def count(self, key_id: UUID, namespaces: Set[str]) -> Dependents | None:
        """What only this key can open in these namespaces; None: not all of them are listed yet."""
        tally = Tally()
        for namespace in namespaces:
            secrets = self.place(namespace).secrets
            if secrets is None:
                return None
            for found in secrets.values():
                if found.sealed is not None and found.sealed.key_id == key_id:
                    tally.add(namespace, found.sealed)
        return tally.result(utc_now())

    def _mirror_secrets(self, namespace: str) -> Mirror[Found]:
        url = path("secrets", namespace=namespace)
        return Mirror(self._kube, url, read_secret, self._secrets_changed, table=True)

    def _mirror_others(self, kind: str, namespace: str) -> Mirror[Pod]:
        where, read = _HOLDERS[kind]
        url = path(namespace=namespace, **where)
        return Mirror(self._kube, url, read, self._pods_changed, optional=kind == "Gateway")

    def _mirror_volumes(self, _: str) -> Mirror[dict[str, Pod]]:
        return Mirror(self._kube, path("persistentvolumes"), holders.read_volume, self._pods_changed)

    def _mirror_pods(self, namespace: str) -> Mirror[Pod]:
        return Mirror(self._kube, path("pods", namespace=namespace), read_pod, self._pods_changed)


def _keep(mirrors: _Mirrors[T], wanted: Set[str], make: Callable[[str], Mirror[T]]) -> None:
    for namespace in mirrors.keys() - wanted:
        mirrors.pop(namespace)[1].cancel()
    for namespace in wanted - mirrors.keys():
        mirror = make(namespace)
        mirrors[namespace] = mirror, asyncio.create_task(mirror.run())
