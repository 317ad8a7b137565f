"""Admission of Pods in sealing namespaces: what they use of Secrets is asked for, and the planner decides."""

import asyncio
import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from keyshred.envelope.format import OVERHEAD
from keyshred.errors import KubeUnavailable, Malformed, NotFound, Refused
from keyshred.kube.client import Json, Kube, path
from keyshred.names import ANNOTATION_ENVELOPE
from keyshred.policy import pod_plan
from keyshred.policy.pod_plan import Known, Terms
from keyshred.policy.secrets import decode_data
from keyshred.webhook.review import ALLOW, Answer, Review
from keyshred.webhook.snapshot import Snapshot

_AT_A_TIME: Final = 8
"""Secrets of one pod that are read at once."""
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
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def read(resource: str, name: str) -> Json | None:
            async with slots:
                try:
                    return await self.kube.get(path(resource, name, namespace=namespace))
                except NotFound:
                    return None
                except Refused as error:
                    # Its RoleBinding comes with the label, and an API server may not know both at once.
                    raise KubeUnavailable(
                        f"keyshred may not read the {resource} of namespace {namespace} yet: try again"
                    ) from error

        async def read_all(resource: str, names: Iterable[str]) -> dict[str, Json]:
            wanted = sorted(names)
            found = await asyncio.gather(*(read(resource, name) for name in wanted))
            return {name: obj for name, obj in zip(wanted, found, strict=True) if obj is not None}

        secrets, config_maps = await asyncio.gather(
            read_all("secrets", pod_plan.wanted(pod)), read_all("configmaps", pod_plan.wanted_config_maps(pod))
        )
        sealed = {name for name, secret in secrets.items() if _is_sealed(secret)}
        return Terms(
            image=self.image,
            pull_policy=self.pull_policy,
            secrets={name: _known(secret, name in left_out, name in sealed) for name, secret in secrets.items()},
            left_out=left_out - sealed,
            config_map_keys={
                name: frozenset((found.get("data") or {}).keys() | (found.get("binaryData") or {}).keys())
                for name, found in config_maps.items()
            },
        )


def _known(secret: Json, left_out: bool, sealed: bool) -> Known:
    data = decode_data(secret)
    empty = frozenset(key for key, value in data.items() if len(value) == (OVERHEAD if sealed else 0))
    return Known(frozenset(data), None if sealed else data, left_out and not sealed, empty)


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
            patch.append({"op": "add", "path": "/" + "/".join(parts), "value": copy.deepcopy(new)})
    return patch
