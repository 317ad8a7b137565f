"""Labels, RoleBindings and counts."""

import uuid
from datetime import UTC, datetime

from keyshred.envelope.format import Born, Envelope, Mechanism, serialise
from keyshred.names import ANNOTATION_ENVELOPE, LABEL_KEY_ID
from tests.integration.controller.lab import Json, Lab, until, until_equal


def test_namespaces_are_labelled_and_let_go(lab: Lab, name: str) -> None:
    lab.root_key(name)
    lab.kubectl.run("create", "namespace", name)
    lab.kubectl.run("create", "namespace", f"{name}-2")
    lab.kubectl.run("create", "secret", "generic", "old", f"--namespace={name}", "--from-literal=a=b")
    spec = {"rootKeyRef": {"name": name}, "namespaces": {"names": [name], "selector": {"matchLabels": {"t": name}}}}
    lab.authorize(name, spec)

    def label(namespace: str) -> str:
        return str(lab.get("namespace", namespace)["metadata"]["labels"].get("keyshred.dev/sealing", ""))

    until_equal(lambda: label(name), "enabled")
    lab.kubectl.run("label", "namespace", f"{name}-2", f"t={name}")
    until_equal(lambda: label(f"{name}-2"), "enabled")
    bindings = lab.kubectl("get", "rolebindings", f"--namespace={name}")["items"]
    assert {b["metadata"]["name"] for b in bindings} == {"keyshred-secret-counter", "keyshred-secret-reader"}
    # There is no webhook, so that a patch seals nothing, and it says so.
    until(lambda: "does not know the namespace's label yet" in sealing_message(lab, name))
    assert lab.ready(name, "keyauthorization") == ("False", "Sealing")
    lab.kubectl.run("delete", "secret", "old", f"--namespace={name}")
    until_equal(lambda: lab.ready(name, "keyauthorization"), ("True", "Authorized"))
    lab.kubectl.run("delete", "keyauthorization", name)
    until_equal(lambda: label(name), "")
    until_equal(lambda: lab.kubectl("get", "rolebindings", f"--namespace={name}")["items"], [])
    until_equal(lambda: label(f"{name}-2"), "")


def sealing_message(lab: Lab, name: str) -> str:
    """The condition Sealing of a KeyAuthorization."""
    conditions = lab.get("keyauthorization", name).get("status", {}).get("conditions", ())
    return next((str(c["message"]) for c in conditions if c["type"] == "Sealing"), "")


def test_a_namespace_settles_before_anything_in_it_is_named(lab: Lab, name: str) -> None:
    lab.start("--settle=3600")
    lab.root_key(name)
    lab.kubectl.run("create", "namespace", name)
    lab.kubectl.run("create", "secret", "generic", "old", f"--namespace={name}", "--from-literal=a=b")
    lab.authorize(name, {"rootKeyRef": {"name": name}, "namespaces": {"names": [name]}})

    def held() -> str:
        meta = lab.get("namespace", name)["metadata"]
        assert ("keyshred.dev/sealing" in meta["labels"]) == ("keyshred.dev/held" in (meta.get("annotations") or {}))
        return str((meta.get("annotations") or {}).get("keyshred.dev/held", ""))

    until_equal(held, "*")
    until(lambda: f"sealing begins when every API server knows the label of {name}" in sealing_message(lab, name))
    version = lab.get("secret", "old", f"--namespace={name}")["metadata"]["resourceVersion"]
    # A controller that finds it so begins again, and it settles under that one.
    lab.start()
    until(lambda: "keyshred.dev/held" not in (lab.get("namespace", name)["metadata"].get("annotations") or {}))
    assert lab.get("secret", "old", f"--namespace={name}")["metadata"]["resourceVersion"] == version


def test_dependents_are_counted_without_reading_one(lab: Lab, name: str) -> None:
    key_id = lab.root_key(name)
    lab.kubectl.run("create", "namespace", name)
    lab.authorize(name, {"rootKeyRef": {"name": name}, "namespaces": {"names": [name]}})
    until_equal(lambda: lab.ready(name, "keyauthorization"), ("True", "Authorized"))
    for secret, born in (("a", Born.SEALED), ("b", Born.ADOPTED), ("c", Born.ADOPTED)):
        lab.kubectl.create(sealed(name, secret, key_id, born))
    lab.kubectl.create(sealed(name, "of-another-key", str(uuid.uuid4()), Born.SEALED))
    until_equal(lambda: lab.get("rootkey", name)["status"].get("dependents", {}).get("secrets"), 3)
    assert lab.get("rootkey", name)["status"]["versions"][0]["secrets"] == 3
    until_equal(lambda: lab.get("keyauthorization", name)["status"]["secrets"], 3)
    lab.delete(name)
    until(lambda: lab.is_gone("rootkey", name))
    dependents = lab.get("keyrecord", key_id)["status"]["evidence"]["dependents"]
    assert dependents | {"observedAt": ""} == {
        "secrets": 3,
        "sealedAtCreate": 1,
        "adopted": 2,
        "earliestAdoption": "2026-01-02T03:04:05Z",
        "observedAt": "",
    }


def sealed(namespace: str, name: str, key_id: str, born: Born) -> Json:
    """A Secret with the marks of a sealed one."""
    envelope = Envelope(
        key_id=uuid.UUID(key_id),
        key_version=1,
        mechanism=Mechanism.AES_GCM,
        wrapped_dek=bytes(60),
        commit=bytes(16),
        namespace=namespace,
        name=name,
        born=born,
        born_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    labels, annotations = {LABEL_KEY_ID: key_id}, {ANNOTATION_ENVELOPE: serialise(envelope)}
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}


def test_two_keys_for_one_secret_are_a_conflict(lab: Lab, name: str) -> None:
    lab.kubectl.run("create", "namespace", name)
    lab.kubectl.run("create", "secret", "generic", "s", f"--namespace={name}", "--from-literal=a=b")
    for key in (name, f"{name}-2"):
        lab.root_key(key)
        lab.authorize(key, {"rootKeyRef": {"name": key}, "namespaces": {"names": [name]}})
    until_equal(lambda: {lab.ready(a, "keyauthorization") for a in (name, f"{name}-2")}, {("False", "Conflict")})
    lab.kubectl.run("label", "secret", "s", f"--namespace={name}", f"keyshred.dev/root-key={name}")
    until_equal(lambda: lab.ready(f"{name}-2", "keyauthorization"), ("True", "Authorized"))
    until_equal(lambda: lab.ready(name, "keyauthorization"), ("False", "Sealing"))
