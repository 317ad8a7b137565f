"""Admission of Pods in sealing namespaces: what they use of Secrets is asked for, and the planner decides."""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from keyshred.envelope.format import OVERHEAD
from keyshred.errors import KeyshredError, KubeUnavailable, Malformed, NotFound, Refused
from keyshred.kube.client import Json, Kube, path
from keyshred.names import ANNOTATION_ENVELOPE
from keyshred.policy import env_file, pod_plan
from keyshred.policy.pod_bounds import MAX_KEYS
from keyshred.policy.pod_plan import Known, Terms
from keyshred.policy.secrets import decode_data
from keyshred.webhook.review import ALLOW, Answer, Review
from keyshred.webhook.snapshot import Snapshot

_AT_A_TIME: Final = 8
"""Secrets of one pod that are read at once: each has up to 1 MiB."""
_PARTS: Final = (("spec",), ("metadata", "annotations"))
"""What of a Pod is changed."""


@dataclass(slots=True)
class PodAdmission:
    """What a Pod's admission needs."""

    kube: Kube
    snapshot: Snapshot
    image: str
    pull_policy: str

    async def admit(self, review: Review) -> Answer:
        """Puts our volumes where the Pod has a Secret's values from Kubernetes.

        Raises Refused with the field, the reason and the way out for what cannot be done; PolicyNotFresh and
        KubeUnavailable, so that no container starts with ciphertext meanwhile.
        """
        pod = review.object
        if pod is None or not isinstance(pod.get("spec"), dict):
            raise Malformed("the AdmissionReview carries no Pod")
        match review.operation, review.sub_resource:
            case "CREATE", "":
                planned = pod_plan.plan(pod, await self._terms(review.namespace, pod))
            case "UPDATE", "":
                planned = pod_plan.restore(pod, _old(review))
            case "UPDATE", "ephemeralcontainers":
                planned = pod_plan.plan_ephemeral(pod, _old(review), await self._terms(review.namespace, pod))
            case _:
                return ALLOW
        return Answer(_patch(pod, planned))

    async def _terms(self, namespace: str, pod: Json) -> Terms:
        policy = await self.snapshot.policy()
        left_out = policy.left_out(namespace)
        # Both raise Refused for too much, before anything is read.
        secrets = pod_plan.wanted(pod)
        config_maps = pod_plan.wanted_config_maps(pod) if secrets else ()
        reading = _Reading(self.kube, namespace, left_out)
        await _all(
            [
                *(reading.secret(name) for name in sorted(secrets)),
                *(reading.config_map(name) for name in sorted(config_maps)),
            ]
        )
        return Terms(
            image=self.image,
            pull_policy=self.pull_policy,
            secrets=reading.secrets,
            left_out=left_out - {name for name, known in reading.secrets.items() if known.unfit is None},
            config_map_keys=reading.config_maps,
        )


@dataclass(slots=True)
class _Reading:
    """What is learnt of the Secrets and ConfigMaps of one pod. No object is kept, and no value."""

    kube: Kube
    namespace: str
    left_out: frozenset[str]
    secrets: dict[str, Known] = field(default_factory=dict)
    config_maps: dict[str, frozenset[str]] = field(default_factory=dict)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_A_TIME))
    _keys: int = 0

    async def secret(self, name: str) -> None:
        async with self._slots:
            if (found := await self._read("secrets", name)) is not None:
                known = _known(found, name in self.left_out)
                self._count(known.keys)
                self.secrets[name] = known

    async def config_map(self, name: str) -> None:
        async with self._slots:
            if (found := await self._read("configmaps", name)) is not None:
                keys = frozenset((found.get("data") or {}).keys() | (found.get("binaryData") or {}).keys())
                self._count(keys)
                self.config_maps[name] = keys

    async def _read(self, resource: str, name: str) -> Json | None:
        try:
            return await self.kube.get(path(resource, name, namespace=self.namespace))
        except NotFound:
            return None
        except Refused as error:
            # Its RoleBinding comes with the label, and an API server may not know both at once.
            raise KubeUnavailable(
                f"keyshred may not read the {resource} of namespace {self.namespace} yet: try again"
            ) from error

    def _count(self, keys: frozenset[str]) -> None:
        self._keys += len(keys)
        if self._keys > MAX_KEYS:
            raise Refused(
                f"spec: its Secrets and ConfigMaps have more than {MAX_KEYS:,} keys together, which are too many for "
                "one pod; split the pod"
            )


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of it at once. The first failure ends the rest, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
    except ExceptionGroup as group:
        # What is not ours, if anything, is what somebody must look at.
        raise min(group.exceptions, key=lambda error: isinstance(error, KeyshredError)) from None


def _known(secret: Json, left_out: bool) -> Known:
    data, sealed = decode_data(secret), _is_sealed(secret)
    empty = frozenset(key for key, value in data.items() if len(value) == (OVERHEAD if sealed else 0))
    unfit = None if sealed else {key: why for key, value in data.items() if (why := env_file.unfit(value))}
    return Known(frozenset(data), unfit, left_out and not sealed, empty)


def _is_sealed(secret: Json) -> bool:
    return ANNOTATION_ENVELOPE in (secret["metadata"].get("annotations") or {})


def _old(review: Review) -> Json:
    if review.old_object is None:
        raise Malformed("the AdmissionReview carries no old Pod")
    return review.old_object


def _patch(before: Json, after: Json) -> list[Json]:
    """JSON patch (RFC 6902) of what differs, a part at a time."""
    patch: list[Json] = []
    for parts in _PARTS:
        old, new = before, after
        for part in parts:
            old, new = old.get(part) or {}, new.get(part) or {}
        if old != new:
            patch.append({"op": "add", "path": "/" + "/".join(parts), "value": new})
    return patch
