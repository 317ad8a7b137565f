"""What else needs Secrets as they are: Ingresses, Gateways, PersistentVolumes, workloads whose pods would be refused.

Each is read into the tuple that pods are read into: names of Secrets, who it is, and why.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from keyshred.errors import Refused
from keyshred.policy import pod_files, pod_plan
from keyshred.policy.found import Pod
from keyshred.policy.pod_terms import Known, Object, Terms, at, listed

TEMPLATES: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
"""Kinds with pods in them, besides those that these make."""

_THROUGH_THE_API: Final = "its controller reads it through the API: leave the Secret out (secrets.exclude)"
_BY_A_DRIVER: Final = "the driver of the volume reads it: leave the Secret out (secrets.exclude)"
_CSI: Final = (
    "nodePublishSecretRef",
    "nodeStageSecretRef",
    "nodeExpandSecretRef",
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
)
_IN_TREE: Final = ("cephfs", "rbd", "iscsi", "flexVolume", "scaleIO", "storageos", "cinder")


def read_ingress(obj: Object) -> Pod:
    """networking.k8s.io/v1, spec.tls."""
    names = (tls.get("secretName") for tls in listed(obj, "spec", "tls"))
    return Pod(_names(names), f"Ingress {_name(obj)}", _THROUGH_THE_API)


def read_gateway(obj: Object) -> Pod:
    """gateway.networking.k8s.io/v1, spec.listeners[].tls.certificateRefs to Secrets of its own namespace."""
    refs = [ref for one in listed(obj, "spec", "listeners") for ref in listed(one, "tls", "certificateRefs")]
    own = obj["metadata"]["namespace"]
    names = (r.get("name") for r in refs if r.get("kind", "Secret") == "Secret" and r.get("namespace", own) == own)
    return Pod(_names(names), f"Gateway {_name(obj)}", _THROUGH_THE_API)


def read_volume(obj: Object) -> dict[str, Pod]:
    """A PersistentVolume, by the namespaces that its Secrets are in (core/v1, SecretReference)."""
    found: dict[str, set[str]] = {}
    for namespace, name in _volume_secrets(obj.get("spec") or {}):
        found.setdefault(namespace, set()).add(name)
    who = f"PersistentVolume {_name(obj)}"
    return {namespace: Pod(frozenset(names), who, _BY_A_DRIVER) for namespace, names in found.items()}


def read_template(kind: str, obj: Object) -> Pod:
    """A workload: Secrets that its pods could not have from us, with the planner's own words.

    One that another workload makes has none: that one has the same template.
    """
    who = f"{kind} {_name(obj)}"
    if any(owner.get("controller") for owner in listed(obj, "metadata", "ownerReferences")):
        return Pod(frozenset(), who)
    steps = ("jobTemplate", "spec", "template") if kind == "CronJob" else ("template",)
    pod = at(obj, "spec", *steps) or {}
    names = pod_plan.wanted(pod)
    terms = Terms("", "", {name: Known(frozenset(), None) for name in names}, frozenset(), {})
    try:
        pod_plan.plan(pod, terms)
    except Refused as error:
        return Pod(_concerned(pod, terms) or names, who, f"its pods would be refused: {error}")
    return Pod(frozenset(), who)


def _concerned(pod: Object, terms: Terms) -> frozenset[str]:
    """The Secrets of the volumes that are at fault; none where it is something else."""
    names: set[str] = set()
    for index, volume in enumerate(listed(pod, "spec", "volumes")):
        try:
            pod_files.files(volume, f"spec.volumes[{index}]", terms)
        except Refused:
            names.update(pod_files.native_names(volume))
    return frozenset(names)


def _volume_secrets(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    claimed = at(spec, "claimRef", "namespace") or ""
    refs = [at(spec, "csi", field) for field in _CSI] + [at(spec, kind, "secretRef") for kind in _IN_TREE]
    for ref in refs:
        if at(ref, "name"):
            yield ref.get("namespace") or claimed, ref["name"]
    if azure := at(spec, "azureFile", "secretName"):
        yield at(spec, "azureFile", "secretNamespace") or claimed, azure


def _names(names: Iterator[Any]) -> frozenset[str]:
    return frozenset(name for name in names if name)


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])
