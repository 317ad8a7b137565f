"""What is known of the Secrets and pods of the namespaces that keyshred looks at: a watch for each, metadata alone."""

import asyncio
from collections.abc import Callable, Set
from typing import TypeVar
from uuid import UUID

from keyshred.kube.client import Kube, path
from keyshred.kube.mirror import Mirror
from keyshred.policy.coverage import Place
from keyshred.policy.found import Found, Pod, read_pod, read_secret
from keyshred.policy.lifecycle import Dependents, Tally
from keyshred.times import utc_now

T = TypeVar("T")

_Mirrors = dict[str, tuple[Mirror[T], asyncio.Task[None]]]
"""By namespace."""


class Index:
    """Follows namespaces until it is told otherwise. It needs list and watch there, and waits for that right."""

    def __init__(self, kube: Kube, *, secrets_changed: Callable[[], None], pods_changed: Callable[[], None]) -> None:
        self._kube = kube
        self._secrets_changed = secrets_changed
        self._pods_changed = pods_changed
        self._secrets: _Mirrors[Found] = {}
        self._pods: _Mirrors[Pod] = {}

    def follow(self, secrets: Set[str], pods: Set[str]) -> None:
        """The namespaces to follow from now on, and no others."""
        _keep(self._secrets, secrets, self._mirror_secrets)
        _keep(self._pods, pods, self._mirror_pods)

    def place(self, namespace: str) -> Place:
        """What is known of a namespace; it changes while the event loop runs."""
        secrets, pods = self._secrets.get(namespace), self._pods.get(namespace)
        return Place(
            secrets[0].objects if secrets and secrets[0].synced else None,
            pods[0].objects if pods and pods[0].synced else None,
        )

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

    def _mirror_pods(self, namespace: str) -> Mirror[Pod]:
        return Mirror(self._kube, path("pods", namespace=namespace), read_pod, self._pods_changed)


def _keep(mirrors: _Mirrors[T], wanted: Set[str], make: Callable[[str], Mirror[T]]) -> None:
    for namespace in mirrors.keys() - wanted:
        mirrors.pop(namespace)[1].cancel()
    for namespace in wanted - mirrors.keys():
        mirror = make(namespace)
        mirrors[namespace] = mirror, asyncio.create_task(mirror.run())
