"""Namespaces that live already: what was there before is sealed by the sweep, or held, or named as unsealable."""

import json
from collections.abc import Iterator

import pytest

from keyshred.names import ANNOTATION_ENVELOPE
from tests.cluster.keyshred import Keyshred
from tests.integration.controller.lab import until, until_equal
from tests.integration.system.early import PLAIN, Early
from tests.integration.system.tenant import Object, Tenant, secret


@pytest.fixture
def early(keyshred: Keyshred, tenant: Tenant) -> Early:
    return Early(keyshred, tenant)


@pytest.fixture
def slowly(keyshred: Keyshred) -> Iterator[None]:
    """The controller sweeps two Secrets a second."""
    flags = keyshred.controller_flags
    keyshred.controller_flags = (*flags, "--sweep-rate=2")
    keyshred.start_controller()
    yield
    keyshred.controller_flags = flags
    keyshred.start_controller()


def named(status: Object, what: str) -> dict[str, str]:
    """Reasons by name in `held` or `unsealable`."""
    return {item["name"]: item["reason"] for item in status.get(what) or ()}


def test_what_only_looks_sealed_is_sealed_or_named(early: Early, tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    copied = tenant.stored("app")["metadata"]["annotations"][ANNOTATION_ENVELOPE]
    envelope = {"metadata": {"annotations": {ANNOTATION_ENVELOPE: copied}}}
    early.kubectl.create(secret(early.name, "copied", {"a": PLAIN}, **envelope))
    early.kubectl.create(secret(early.name, "marked", {"a": PLAIN, "b": "KSH1 not ours"}))
    early.authorize()
    until(lambda: PLAIN.encode() not in early.in_etcd("copied"))
    until_equal(lambda: set(named(early.status(), "unsealable")), {"marked"})
    assert "data[b] starts with KSH1" in named(early.status(), "unsealable")["marked"]
    assert early.condition("Ready")["status"] == "False"
    early.kubectl.run("delete", "secret", "marked", f"--namespace={early.name}")
    until_equal(lambda: early.condition("Ready")["status"], "True")


def test_what_was_there_before_is_sealed_and_what_cannot_be_is_named(early: Early) -> None:
    for name in ("one", "two"):
        early.create_secret(name, a=PLAIN)
    early.kubectl.create(secret(early.name, "fixed", {"a": PLAIN}, immutable=True))
    early.kubectl.create(secret(early.name, "empty", {}))
    early.kubectl.create(secret(early.name, "full", {"a": "x" * (1024 * 1024 - 8)}))
    early.kubectl.apply(secret(early.name, "applied", {"a": PLAIN}))
    early.authorize()
    until_equal(lambda: (early.is_sealed("one"), early.is_sealed("two")), (True, True))
    assert not any(PLAIN.encode() in early.in_etcd(name) for name in ("one", "two"))
    until_equal(lambda: set(named(early.status(), "unsealable")), {"fixed", "full"})
    reasons = named(early.status(), "unsealable")
    assert "immutable" in reasons["fixed"]
    assert reasons["full"].startswith("sealing adds 32 bytes to each of 1 values: 1048568 + 32 bytes pass the limit")
    assert early.condition("Ready")["status"] == "False"
    assert "3 of 5 Secrets are sealed" in early.condition("Sealing")["message"]
    # The sweep has taken no field from whoever applied it.
    version = early.stored("applied")["metadata"]["resourceVersion"]
    early.kubectl.apply(secret(early.name, "applied", {"a": PLAIN}))
    assert early.stored("applied")["metadata"]["resourceVersion"] == version
    # As it is told to.
    early.kubectl.run("delete", "secret", "fixed", "full", f"--namespace={early.name}")
    early.kubectl.create(secret(early.name, "fixed", {"a": PLAIN}, immutable=True))
    until_equal(lambda: early.condition("Ready")["status"], "True")
    assert early.status()["unsealable"] == [] and early.condition("Sealing")["status"] == "False"
    until_equal(lambda: early.status()["secrets"], 4)
    events = early.kubectl("get", "events", f"--field-selector=involvedObject.name={early.name}")["items"]
    reported = [e["reason"] for e in events]
    assert reported.count("SweepStarted") == 1 and reported.count("AllSealed") == 1


def test_a_sweep_waits_for_the_webhook_and_says_so(keyshred: Keyshred, early: Early) -> None:
    early.create_secret("read", a=PLAIN)
    early.pod("web-1", "read")
    early.authorize()
    until_equal(lambda: [*named(early.status(), "held")], ["read"])
    keyshred.webhook.stop()
    early.kubectl.run("delete", "pod", "web-1", f"--namespace={early.name}", "--force", "--grace-period=0")
    until(lambda: 'failed calling webhook "secrets.keyshred.dev"' in early.condition("Ready")["message"])
    assert not early.is_sealed("read")
    keyshred.start_webhook()
    until_equal(lambda: early.condition("Ready")["status"], "True")
    assert early.is_sealed("read")


@pytest.mark.usefixtures("slowly")
def test_a_sweep_goes_on_where_a_killed_controller_left_it(keyshred: Keyshred, early: Early) -> None:
    names = [f"s{n:02}" for n in range(12)]
    early.kubectl.create(*(secret(early.name, name, {"a": PLAIN}) for name in names))
    early.authorize()

    def sealed() -> dict[str, str]:
        items = early.kubectl("get", "secrets", f"--namespace={early.name}", "-l", "keyshred.dev/key-id")["items"]
        return {i["metadata"]["name"]: i["metadata"]["resourceVersion"] for i in items}

    before = until(sealed)
    keyshred.controller.kill()
    assert len(before) < len(names)
    keyshred.start_controller()
    until_equal(lambda: early.condition("Ready")["status"], "True")
    after = sealed()
    assert set(after) == set(names)
    assert before.items() <= after.items()


def test_what_pods_read_natively_is_held_until_they_are_gone(early: Early) -> None:
    for name in ("read", "also-read", "unread"):
        early.create_secret(name, a=PLAIN)
    early.pod("web-1", "read", "not-there")
    early.pod("web-2", "read", "also-read")
    early.authorize()
    until(lambda: early.is_sealed("unread"))
    assert early.namespace("annotations", "held") == "also-read,not-there,read"
    assert not early.is_sealed("read")
    until_equal(lambda: set(named(early.status(), "held")), {"read", "also-read"})
    assert "Deployment web (2 pods)" in named(early.status(), "held")["read"]
    assert early.condition("Ready")["reason"] == "Sealing"
    early.kubectl.run("delete", "pod", "web-2", f"--namespace={early.name}", "--force", "--grace-period=0")
    until(lambda: early.is_sealed("also-read"))
    assert not early.is_sealed("read")
    early.kubectl.run("delete", "pod", "web-1", f"--namespace={early.name}", "--force", "--grace-period=0")
    until_equal(lambda: early.condition("Ready")["status"], "True")
    assert early.is_sealed("read") and early.namespace("annotations", "held") == ""


def test_preview_tells_and_changes_nothing(early: Early) -> None:
    early.create_secret("plain", a=PLAIN)
    early.create_secret("read", a=PLAIN)
    early.kubectl.create(secret(early.name, "fixed", {"a": PLAIN}, immutable=True))
    early.pod("web-1", "read")
    before = {name: early.stored(name)["metadata"]["resourceVersion"] for name in ("plain", "read", "fixed")}
    early.authorize(mode="Preview")
    until_equal(lambda: [*named(early.status(), "unsealable")], ["fixed"])
    assert [*named(early.status(), "held")] == ["read"]
    ready = early.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Preview")
    assert f"seal 1 Secrets in 1 namespaces ({early.name}/plain)" in ready["message"]
    assert early.namespace("labels", "sealing") == ""
    assert before == {name: early.stored(name)["metadata"]["resourceVersion"] for name in before}
    early.kubectl.run("delete", "keyauthorization", early.name)
    until_equal(lambda: early.kubectl("get", "rolebindings", f"--namespace={early.name}")["items"], [])


def _others(place: str) -> list[Object]:
    """What needs Secrets as they are, and is no pod."""
    mixed = {"name": "m", "projected": {"sources": [{"secret": {"name": "mixed"}}, {"configMap": {"name": "c"}}]}}
    driver = {"name": "d", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "by-a-driver"}}}
    spec = {"containers": [{"name": "c", "image": "none"}], "volumes": [mixed, driver]}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": spec}
    deployment = {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    rule = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": _BACKEND}]}}
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"name": "staged", "namespace": place}},
    }
    return [
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web", "namespace": place}}
        | {"spec": {"tls": [{"secretName": "shown"}], "rules": [rule]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": place}}
        | {"spec": deployment},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": place}, "spec": volume},
    ]


_BACKEND: Object = {"service": {"name": "web", "port": {"number": 80}}}


def test_what_others_need_is_told_by_preview_and_held_until_they_need_it_no_more(early: Early) -> None:
    names = ("shown", "mixed", "by-a-driver", "staged", "free")
    for name in names:
        early.create_secret(name, a=PLAIN)
    early.kubectl.create(*_others(early.name))
    early.authorize(mode="Preview")
    until_equal(lambda: set(named(early.status(), "held")), set(names) - {"free"})
    told = named(early.status(), "held")
    assert "Ingress web: its controller reads it through the API" in told["shown"]
    assert "Deployment web: a pod made anew would be refused: spec.volumes[0].projected" in told["mixed"]
    assert "Deployment web: a pod made anew would be refused: spec.volumes[1].csi" in told["by-a-driver"]
    assert f"PersistentVolume {early.name}: the driver" in told["staged"]
    early.authorize()
    until(lambda: early.is_sealed("free"))
    until_equal(lambda: early.namespace("annotations", "held"), "by-a-driver,mixed,shown,staged")
    until_equal(lambda: set(named(early.status(), "held")), set(names) - {"free"})
    early.kubectl.run("delete", "ingress,deployment", "web", f"--namespace={early.name}")
    # No controller runs here that would take it off.
    finalizers = '{"metadata": {"finalizers": null}}'
    early.kubectl.run("patch", "persistentvolume", early.name, "--type=merge", "-p", finalizers)
    early.kubectl.run("delete", "persistentvolume", early.name)
    until_equal(lambda: early.condition("Ready")["status"], "True")
    assert all(early.is_sealed(name) for name in names)


def test_preview_tells_in_the_same_words_what_is_refused_though_nothing_of_it_is_sealed(early: Early) -> None:
    early.create_secret("free", a=PLAIN)
    early.kubectl.create(secret(early.name, "tls", {"tls.crt": "c", "tls.key": "k"}, type="kubernetes.io/tls"))
    mixed = {"name": "m", "projected": {"sources": [{"secret": {"name": "tls"}}, {"configMap": {"name": "c"}}]}}
    specs: dict[str, Object] = {
        "tls": {"containers": [{"name": "c", "image": "none"}], "volumes": [mixed]},
        "late": {"containers": [{"name": "c", "image": "none", "envFrom": [{"secretRef": {"name": "late"}}]}]},
    }
    pods = {
        name: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": early.name}, "spec": spec}
        for name, spec in specs.items()
    }
    early.kubectl.create(*pods.values())
    early.authorize(mode="Preview")
    until_equal(lambda: set(named(early.status(), "held")), set(pods))
    told = named(early.status(), "held")
    assert early.condition("Ready")["message"].endswith("; pods would be refused for 2 others (status.held)")
    early.authorize()
    until_equal(lambda: early.condition("Ready")["status"], "True")
    for name, pod in pods.items():
        early.kubectl.run("delete", "pod", name, f"--namespace={early.name}", "--force", "--grace-period=0")
        who, words = told[name].split(": a pod made anew would be refused: ")
        assert who == f"Pod {name}"
        refusal = early.kubectl.run("create", "-f", "-", input=json.dumps(pod), check=False).stderr
        assert words in refusal, refusal


def test_release_gives_the_plaintext_back(early: Early) -> None:
    early.authorize()
    until_equal(lambda: early.condition("Ready")["status"], "True")
    early.create_secret("one", a=PLAIN, b="")
    early.create_secret("two", a=PLAIN)
    early.kubectl.create(secret(early.name, "fixed", {"a": PLAIN}, immutable=True))
    assert all(early.is_sealed(name) for name in ("one", "two", "fixed"))
    early.authorize(mode="Release")
    until_equal(lambda: (early.is_sealed("one"), early.is_sealed("two")), (False, False))
    assert early.stored("one")["data"] == {"a": "ZnJvbS1iZWZvcmU=", "b": ""}
    assert not [k for k in early.stored("one")["metadata"].get("labels") or {} if k.startswith("keyshred.dev/")]
    until_equal(lambda: [*named(early.status(), "unsealable")], ["fixed"])
    assert early.namespace("labels", "sealing") == "retained"
    early.kubectl.run("delete", "secret", "fixed", f"--namespace={early.name}")
    until_equal(lambda: early.condition("Ready")["reason"], "Released")
    until_equal(lambda: early.namespace("labels", "sealing"), "")
    early.kubectl.run("delete", "keyauthorization", early.name)
    until_equal(lambda: early.kubectl("get", "rolebindings", f"--namespace={early.name}")["items"], [])


def test_what_may_only_be_unsealed_is_retained(early: Early) -> None:
    early.authorize(operations=["Seal", "Unseal"])
    until_equal(lambda: early.condition("Ready")["status"], "True")
    early.create_secret("one", a=PLAIN)
    early.authorize(operations=["Unseal"])
    until_equal(lambda: early.namespace("labels", "sealing"), "retained")
    until_equal(lambda: early.condition("Ready")["status"], "True")
    early.create_secret("two", a=PLAIN)
    assert early.is_sealed("one") and not early.is_sealed("two")
