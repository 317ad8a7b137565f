"""What needs Secrets as they are: pods, Ingresses, Gateways, PersistentVolumes, what no pod could have from us."""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, TypeGuard

import orjson

from keyshred.errors import Refused
from keyshred.policy import pod_files, pod_plan
from keyshred.policy.found import Hindrance, Holder, When
from keyshred.policy.pod_terms import Known, Object, Terms, at, containers, listed
from keyshred.policy.pods import ended, native_secrets, workload

TEMPLATES: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")
"""Kinds with pods in them that `read_template` reads."""

_THROUGH_THE_API: Final = "its controller reads it through the API: leave the Secret out (secrets.exclude)"
_BY_A_DRIVER: Final = "the driver of the volume reads it: leave the Secret out (secrets.exclude)"
_UNREAD: Final = (
    "keyshred cannot read this object, so each name in it counts as that of a Secret that it needs: change it, or "
    "leave the Secret out (secrets.exclude)"
)
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""As wide as names of Secrets are (RFC 1123, subdomain)."""
_NO_PART: Final = ("resourceVersion", "managedFields", "generation")
"""Metadata that changes with the status, and that no reader goes by."""
_MOST_PLANS: Final = 4
"""Secrets of one pod that the planner is asked about singly: each costs a plan."""
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


def essence(obj: Object) -> bytes:
    """The same while nothing changed that the readers of namespaced objects go by. Status comes often, a plan costs."""
    meta = {key: value for key, value in obj["metadata"].items() if key not in _NO_PART}
    text = orjson.dumps([meta, obj.get("spec"), at(obj, "status", "phase")])
    return blake2b(text, digest_size=16).digest()


def unread(kind: str, obj: Object) -> Holder:
    """What stands for an object on which its reader failed: rather too much is held than too little."""
    names, _ = _all_names(obj.get("spec"))
    return Holder(names, f"{kind} {_name(obj)}", _UNREAD)


def unread_volume(obj: Object) -> dict[str, Holder]:
    """The same of a PersistentVolume: each name in each namespace that it speaks of."""
    names, namespaces = _all_names(obj.get("spec"))
    return {namespace: Holder(names, f"PersistentVolume {_name(obj)}", _UNREAD) for namespace in namespaces}


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
    try:
        names = pod_plan.wanted(pod)
    except Refused as error:
        # It is none to plan for, whatever it has of which Secret.
        return tuple(Hindrance(name, When.ALWAYS, str(error)) for name in sorted(native_secrets(pod)))
    if not names:
        return ()
    always, sealed = _faults(pod, _terms(names, {})), _faults(pod, _terms(names, None))
    found = [Hindrance(name, When.ALWAYS, words) for name, words in always.items()]
    found += [Hindrance(name, When.SEALED, words) for name, words in sealed.items() if name not in always]
    # It says its first fault alone, so one that is there always would hide the others.
    if not always:
        found += [Hindrance(name, When.ABSENT, words) for name, words in _absent(pod, names)]
    return tuple(sorted(found))


def _absent(pod: Object, names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Secrets without which it refuses the pod, each with its words."""
    needed = _must_exist(pod)
    # One that is missing hinders whether others are missing or not.
    if not needed or not _refusal(pod, _terms((), {})):
        return
    for index, name in enumerate(needed):
        if index < _MOST_PLANS:
            words = _refusal(pod, _terms(names - {name}, {}))
        else:
            words = f"Secret {name}, which it has in envFrom, does not exist; create it first"
        if words:
            yield name, words


def _must_exist(pod: Object) -> list[str]:
    """Names in envFrom that are not optional, each once and in order."""
    sources = (at(s, "secretRef") for _, c in containers(at(pod, "spec") or {}) for s in listed(c, "envFrom"))
    return list(dict.fromkeys(s["name"] for s in sources if at(s, "name") and s.get("optional") is not True))


def _terms(names: Iterable[str], unfit: Mapping[str, str] | None) -> Terms:
    """These Secrets are there: sealed where `unfit` is None."""
    return Terms("", "", {name: Known(frozenset(), unfit) for name in names}, frozenset(), {})


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


def _all_names(value: Any) -> tuple[frozenset[str], frozenset[str]]:
    """All that could be names of Secrets, and of namespaces. Bounded by the object's size, and not by its depth."""
    names: set[str] = set()
    namespaces: set[str] = set()
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            left += part.values()
            names.update(filter(_is_name, (part.get("secretName"), part.get("name"))))
            namespaces.update(filter(_is_name, (part.get("secretNamespace"), part.get("namespace"))))
    return frozenset(names), frozenset(namespaces)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _names(names: Iterator[Any]) -> frozenset[str]:
    return frozenset(name for name in names if name)


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])
