"""Which Secrets a pod refers to, as the node authorizer has it for kubelets (Kubernetes, pkg/api/v1/pod/util.go)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from keyshred.errors import Malformed
from keyshred.policy import volumes
from keyshred.policy.pod_terms import SECRET_REF_VOLUMES, at, containers, listed, text

Object = Mapping[str, Any]

_MAX_PARTS: Final = 3 * volumes.MAX_PARTS
"""In all volumes of ours: the planner makes no pod with more files, more variables or more directories than one volume
can hold (pod_check.py), and whoever asks in a pod's name has it read each time."""
_TEMPLATE_HASH: Final = "pod-template-hash"


def living(pod: Object, uid: str) -> bool:
    """Whether this is the pod with that UID, and it has not ended."""
    return pod["metadata"].get("uid") == uid and not ended(pod)


def ended(pod: Object) -> bool:
    """Whether none of its containers runs any more, or ever will again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def workload(pod: Object) -> str:
    """Kind and name of what to restart, so that the pod is made anew: its controller, or the pod itself."""
    meta = pod["metadata"]
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller"):
            kind, name = owner["kind"], owner["name"]
            # A ReplicaSet is named after its Deployment and the hash that it labels its pods with.
            suffix = f"-{(meta.get('labels') or {}).get(_TEMPLATE_HASH)}"
            if kind == "ReplicaSet" and name.endswith(suffix):
                kind, name = "Deployment", name.removesuffix(suffix)
            return f"{kind} {name}"
    return f"Pod {meta['name']}"


def native_secrets(pod: Object) -> frozenset[str]:
    """Names of all Secrets that the pod has from Kubernetes itself, as they are stored."""
    return frozenset(filter(None, _references(at(pod, "spec"))))


def referred_secrets(pod: Object) -> frozenset[str]:
    """Names of all Secrets that the pod's spec names, those of its volumes of ours included."""
    return native_secrets(pod).union(*(volumes.secrets(content) for _, content in own_volumes(pod)))


def own_volumes(pod: Object) -> Iterator[tuple[str, volumes.Content]]:
    """Its volumes of ours: name, and what each is to hold."""
    left = _MAX_PARTS
    for volume in listed(pod, "spec", "volumes"):
        if text(volume, "csi", "driver") != volumes.DRIVER or not text(volume, "name"):
            continue
        try:
            content = volumes.parse(at(volume, "csi", "volumeAttributes") or {})
        except Malformed:
            # It cannot be mounted, so it refers to nothing. To find that out takes as long as for a full one.
            left -= volumes.MAX_PARTS
        else:
            left -= volumes.parts(content)
            if left >= 0:
                yield volume["name"], content
        if left <= 0:
            return


def _references(spec: Any) -> Iterator[str]:
    yield from (text(ref, "name") for ref in listed(spec, "imagePullSecrets"))
    for _, container in containers(spec):
        yield from (text(source, "secretRef", "name") for source in listed(container, "envFrom"))
        yield from (text(variable, "valueFrom", "secretKeyRef", "name") for variable in listed(container, "env"))
    for volume in listed(spec, "volumes"):
        yield text(volume, "secret", "secretName")
        yield from (text(source, "secret", "name") for source in listed(volume, "projected", "sources"))
        yield text(volume, "azureFile", "secretName")
        yield text(volume, "csi", "nodePublishSecretRef", "name")
        yield from (text(volume, kind, "secretRef", "name") for kind in SECRET_REF_VOLUMES)
