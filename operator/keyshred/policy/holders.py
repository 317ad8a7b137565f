"""What needs Secrets as they are: pods, Ingresses, Gateways, PersistentVolumes, what no pod could have from us."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from keyshred.errors import Refused
from keyshred.policy import pod_files, pod_plan
from keyshred.policy.found import Hindrance, Holder, When
from keyshred.policy.pod_terms import Known, Object, Terms, at, listed
from keyshred.policy.pods import ended, native_secrets, workload

TEMPLATES: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")
"""Kinds with pods in them that `read_template` reads."""

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


def read_pod(pod: Object) -> Holder:
    """A pod. What would hinder the next one is read from the template that it comes from, where there is one."""
    who = workload(pod)
    if ended(pod):
        return Holder(frozenset(), who)
    from_template = who.split(" ", 1)[0] in TEMPLATES
    return Holder(native_secrets(pod), who, hindrances=() if from_template else hindrances(pod))


def read_ingress(obj: Object) -> Holder:
    """networking.k8s.io/v1, spec.tls."""
    names = (tls.get("secretName") for tls in listed(obj, "spec", "tls"))
    return Holder(_names(names), f"Ingress {_name(obj)}", _THROUGH_THE_API)


def read_gateway(obj: Object) -> Holder:
    """gateway.networking.k8s.io/v1, spec.listeners[].tls.certificateRefs to Secrets of its own namespace."""
    refs = [ref for one in listed(obj, "spec", "listeners") for ref in listed(one, "tls", "certificateRefs")]
    own = obj["metadata"]["namespace"]
    names = (r.get("name") for r in refs if r.get("kind", "Secret") == "Secret" and r.get("namespace", own) == own)
    return Holder(_names(names), f"Gateway {_name(obj)}", _THROUGH_THE_API)


def read_volume(obj: Object) -> dict[str, Holder]:
    """A PersistentVolume, by the namespaces that its Secrets are in (core/v1, SecretReference)."""
    found: dict[str, set[str]] = {}
    for namespace, name in _volume_secrets(obj.get("spec") or {}):
        found.setdefault(namespace, set()).add(name)
    who = f"PersistentVolume {_name(obj)}"
    return {namespace: Holder(frozenset(names), who, _BY_A_DRIVER) for namespace, names in found.items()}


def read_template(kind: str, obj: Object) -> Holder:
    """A workload: Secrets that its pods could not have from us, with the planner's own words.

    One that a Deployment or a CronJob makes has none: that one has the same template.
    """
    who = f"{kind} {_name(obj)}"
    if any(o.get("controller") and o.get("kind") in TEMPLATES for o in listed(obj, "metadata", "ownerReferences")):
        return Holder(frozenset(), who)
    steps = ("jobTemplate", "spec", "template") if kind == "CronJob" else ("template",)
    found = hindrances(at(obj, "spec", *steps) or {})
    return Holder(frozenset(h.secret for h in found if h.when is not When.ABSENT), who, hindrances=found)


def hindrances(pod: Object) -> tuple[Hindrance, ...]:
    """What of a pod, or of a template of pods, the planner would refuse, whatever is in its Secrets."""
    names = pod_plan.wanted(pod)
    if not names:
        return ()
    always, sealed = _faults(pod, _terms(names, {})), _faults(pod, _terms(names, None))
    found = [Hindrance(name, When.ALWAYS, words) for name, words in always.items()]
    found += [Hindrance(name, When.SEALED, words) for name, words in sealed.items() if name not in always]
    # It says its first fault alone, so one that is there always would hide the others.
    if not always:
        without = ((name, _refusal(pod, _terms(names - {name}, {}))) for name in names)
        found += [Hindrance(name, When.ABSENT, words) for name, words in without if words]
    return tuple(sorted(found))


def _terms(names: Iterable[str], plain: Mapping[str, bytes] | None) -> Terms:
    """These Secrets are there: sealed, or with `plain` for values."""
    return Terms("", "", {name: Known(frozenset(), plain) for name in names}, frozenset(), {})


def _refusal(pod: Object, terms: Terms) -> str:
    """The planner's words; empty: it refuses nothing."""
    try:
        pod_plan.plan(pod, terms)
    except Refused as error:
        return str(error)
    return ""


def _faults(pod: Object, terms: Terms) -> dict[str, str]:
    """By Secret: those of the volumes that are at fault; all of them where it is something else."""
    whole = _refusal(pod, terms)
    if not whole:
        return {}
    found: dict[str, str] = {}
    for index, volume in enumerate(listed(pod, "spec", "volumes")):
        try:
            pod_files.files(volume, f"spec.volumes[{index}]", terms)
        except Refused as error:
            found |= dict.fromkeys(pod_files.native_names(volume), str(error))
    return found or dict.fromkeys(terms.secrets, whole)


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
