"""Which Secrets a pod refers to, as the node authorizer has it for kubelets (Kubernetes, pkg/api/v1/pod/util.go)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from keyshred.errors import Malformed
from keyshred.policy import volumes

Object = Mapping[str, Any]

_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
_SECRET_REF_VOLUMES: Final = ("flexVolume", "iscsi", "rbd", "cephfs", "scaleIO", "storageos", "cinder")
"""Volume sources with a `secretRef` to a Secret of the pod's namespace."""
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
    return frozenset(_references(pod.get("spec") or {}))


def referred_secrets(pod: Object) -> frozenset[str]:
    """Names of all Secrets that the pod's spec names, those of its volumes of ours included."""
    return native_secrets(pod).union(*(volumes.secrets(content) for _, content in own_volumes(pod)))


def own_volumes(pod: Object) -> Iterator[tuple[str, volumes.Content]]:
    """Its volumes of ours: name, and what each is to hold."""
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        csi = volume.get("csi") or {}
        if csi.get("driver") == volumes.DRIVER:
            try:
                yield volume["name"], volumes.parse(csi.get("volumeAttributes") or {})
            except Malformed:
                continue  # it cannot be mounted, so it refers to nothing


def _references(spec: Object) -> Iterator[str]:
    for ref in spec.get("imagePullSecrets") or ():
        yield from _name(ref)
    for kind in _CONTAINERS:
        for container in spec.get(kind) or ():
            for source in container.get("envFrom") or ():
                yield from _name(source.get("secretRef"))
            for variable in container.get("env") or ():
                yield from _name((variable.get("valueFrom") or {}).get("secretKeyRef"))
    for volume in spec.get("volumes") or ():
        yield from _volume(volume)


def _volume(volume: Object) -> Iterator[str]:
    if (secret := volume.get("secret")) and secret.get("secretName"):
        yield secret["secretName"]
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield from _name(source.get("secret"))
    if (azure := volume.get("azureFile")) and azure.get("secretName"):
        yield azure["secretName"]
    yield from _name((volume.get("csi") or {}).get("nodePublishSecretRef"))
    for kind in _SECRET_REF_VOLUMES:
        yield from _name((volume.get(kind) or {}).get("secretRef"))


def _name(ref: Object | None) -> Iterator[str]:
    if ref and ref.get("name"):
        yield ref["name"]
