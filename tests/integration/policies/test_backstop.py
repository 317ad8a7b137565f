"""secrets.keyshred.dev: what is covered is stored sealed or not at all, even where no webhook is asked any more."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.cluster.kubectl import Kubectl
from tests.integration.policies.asking import (
    AS_CONTROLLER,
    ENVELOPE,
    MARK,
    PLAIN,
    SEALED,
    Json,
    Site,
    answer,
    grant,
    namespace,
    patched,
    secret,
    unique,
    until,
)

NEVER: Final = (
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
)
TLS: Final = {"type": "kubernetes.io/tls", "data": {"tls.crt": PLAIN, "tls.key": PLAIN}}
HERE: Final = "HERE"
"""Stands for the case's own namespace in its KeyAuthorization."""


@dataclass
class Case:
    """One KeyAuthorization, one namespace, one Secret of plaintext."""

    refused: bool
    spec: Json = field(default_factory=dict)
    """Of the KeyAuthorization; without namespaces it names the case's own."""
    secret: Json = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """Of the namespace."""
    metadata: Json = field(default_factory=dict)
    """Of the KeyAuthorization."""
    name: str = field(default_factory=unique)

    def authorization(self) -> Json:
        made = grant(self.name, {"namespaces": {"names": [HERE]}} | self.spec)
        made["metadata"] |= self.metadata
        return dict(json.loads(json.dumps(made).replace(HERE, self.name)))


def expression(key: str, operator: str, *values: str) -> Json:
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": list(values)} if values else {})]}


def by_secrets(**secrets: Any) -> Json:
    return {"secrets": secrets}


def labelled(**labels: str) -> Json:
    return {"metadata": {"labels": labels}}


MATCHING: Final = [
    ({"matchLabels": {"tier": "gold"}}, {"tier": "gold"}, {"tier": "tin"}),
    ({"matchLabels": {"tier": "gold", "zone": "a"}}, {"tier": "gold", "zone": "a"}, {"tier": "gold"}),
    (expression("tier", "In", "gold", "tin"), {"tier": "tin"}, {}),
    (expression("tier", "NotIn", "gold"), {}, {"tier": "gold"}),
    (expression("tier", "Exists"), {"tier": ""}, {}),
    (expression("tier", "DoesNotExist"), {}, {"tier": ""}),
]
"""Selector, labels that it matches, labels that it does not."""

CASES: Final = {
    "named namespace": Case(True),
    "other namespace": Case(False, {"namespaces": {"names": ["elsewhere"]}}),
    "no namespaces": Case(False, {"namespaces": {}}),
    "only unseal": Case(False, {"operations": ["Unseal"]}),
    "expires later": Case(True, {"expirationTime": "2999-01-01T00:00:00Z"}),
    "has expired": Case(False, {"expirationTime": "2020-01-01T00:00:00+02:00"}),
    "type left out": Case(False, by_secrets(exclude={"types": ["x/y"]}), {"type": "x/y"}),
    "other type left out": Case(True, by_secrets(exclude={"types": ["x/z"]}), {"type": "x/y"}),
    "type named": Case(True, by_secrets(types=["x/y"]), {"type": "x/y"}),
    "other type named": Case(False, by_secrets(types=["x/z"]), {"type": "x/y"}),
    "tls": Case(False, {}, TLS),
    "tls named": Case(True, by_secrets(types=["kubernetes.io/tls"]), TLS),
    "name left out": Case(False, by_secrets(exclude={"names": ["app"]})),
    "other name left out": Case(True, by_secrets(exclude={"names": ["ap"]})),
    "dockercfg": Case(False, {}, {"type": NEVER[3], "data": {".dockercfg": base64.b64encode(b"{}").decode()}}),
    "helm release": Case(False, {}, {"type": NEVER[2]}),
    "bootstrap token": Case(False, {}, {"type": NEVER[1]}),
    "no values": Case(False, {}, {"data": {}}),
    "empty value": Case(True, {}, {"data": {"a": ""}}),
    "null value": Case(True, {}, {"data": {"a": None}}),
    "one of two": Case(True, {}, {"metadata": {"annotations": ENVELOPE}, "data": {"a": SEALED, "b": PLAIN}}),
    "sealed": Case(False, {}, {"metadata": {"annotations": ENVELOPE}, "data": {"a": SEALED, "b": SEALED}}),
    "without envelope": Case(True, {}, {"data": {"a": SEALED}}),
    "preview": Case(False, {"mode": "Preview"}),
    "release": Case(False, {"mode": "Release"}),
}
for number, (selector, yes, no) in enumerate(MATCHING):
    own = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [HERE]}
    here = selector | {"matchExpressions": [*selector.get("matchExpressions", []), own]}
    CASES.update(
        {
            f"namespace selector {number} matches": Case(True, {"namespaces": {"selector": here}}, labels=yes),
            f"namespace selector {number} does not": Case(False, {"namespaces": {"selector": here}}, labels=no),
            f"secret selector {number} matches": Case(True, by_secrets(selector=selector), labelled(**yes)),
            f"secret selector {number} does not": Case(False, by_secrets(selector=selector), labelled(**no)),
            f"exclude selector {number} matches": Case(
                False, by_secrets(exclude={"selector": selector}), labelled(**yes)
            ),
            f"exclude selector {number} does not": Case(
                True, by_secrets(exclude={"selector": selector}), labelled(**no)
            ),
        }
    )


@pytest.fixture(scope="module")
def bare(site: Site) -> Iterator[Kubectl]:
    """Somebody has deleted the webhook configuration; all cases are set up, and the API server knows them."""
    kubectl = site.kubectl
    site.take_webhooks_away()
    for case in CASES.values():
        case.labels = {"keyshred.dev/sealing": "enabled"} | case.labels
    kubectl.create(*(namespace(c.name, c.labels) for c in CASES.values()))
    kubectl.create(*(c.authorization() for c in CASES.values()))
    last = Case(True)
    kubectl.create(namespace(last.name, {"keyshred.dev/sealing": "enabled"}), last.authorization())
    # The API server sees KeyAuthorizations in the order in which they came.
    until(lambda: answer(kubectl, "create", secret(last.name)))
    yield kubectl
    site.bring_webhooks_back()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_creates(bare: Kubectl, case: Case) -> None:
    said = answer(bare, "create", secret(case.name, **case.secret), more=("--validate=false",))
    if not case.refused:
        assert not said
        return
    for part in (
        f"Secret {case.name}/app",
        f"KeyAuthorization {case.name}",
        "try again",
        "MutatingWebhookConfiguration",
    ):
        assert part in said
    assert "correct-horse" not in said and PLAIN not in said


@pytest.mark.parametrize("values", [{"a": PLAIN}, {"a": SEALED, "b": PLAIN}, {"a": ""}])
def test_the_mark_of_a_sealed_secret_is_true_or_refused(bare: Kubectl, values: Json) -> None:
    """Else plaintext could be labelled past the KeyAuthorizations."""
    place = CASES["other namespace"].name
    said = answer(bare, "create", secret(place, data=values, metadata={"labels": MARK, "annotations": ENVELOPE}))
    assert f"Secret {place}/app has the label keyshred.dev/key-id" in said and "MutatingWebhookConfiguration" in said


def test_sealed_values_under_the_mark(bare: Kubectl) -> None:
    for case in (CASES["named namespace"], CASES["other namespace"]):
        sealed = secret(case.name, data={"a": SEALED}, metadata={"labels": MARK, "annotations": ENVELOPE})
        assert not answer(bare, "create", sealed)
        del sealed["metadata"]["annotations"]
        assert "would be stored unsealed" in answer(bare, "create", sealed)
        assert not answer(bare, "create", sealed | {"data": {}})


@dataclass
class Living:
    """A covered namespace that has these Secrets from before."""

    site: Site
    name: str

    def change(self, secret: str, patch: Json) -> str:
        return patched(self.site.kubectl, patch, "secret", secret, "-n", self.name)

    def label(self, label: str, held: str | None = None) -> None:
        """Returns when the API server goes by it, which it tells by another Secret."""
        self.site.set_own(self.name, label, held)
        free = label == "retained" or held is not None
        until(lambda: bool(answer(self.site.kubectl, "create", secret(self.name, "probe"))) != free)


@pytest.fixture(scope="module")
def living(site: Site, bare: Kubectl) -> Living:
    name = site.namespace(None)
    sealed = {"metadata": {"annotations": ENVELOPE, "labels": MARK, "finalizers": ["test/a"]}, "data": {"a": SEALED}}
    bare.create(
        secret(name, "plain", metadata={"finalizers": ["test/a"]}),
        secret(name, "sealed", **sealed),
        secret(name, "damaged", data={"a": SEALED}),
        grant(name, {"namespaces": {"names": [name]}}),
    )
    return Living(site, name)


@pytest.fixture
def enabled(living: Living) -> Living:
    living.label("enabled")
    return living


@pytest.mark.parametrize("name", ["plain", "sealed", "damaged"])
def test_what_is_no_value_can_change(enabled: Living, name: str) -> None:
    for metadata in ({"finalizers": None}, {"labels": {"a": "b"}}, {"annotations": {"a": "b"}}):
        assert not enabled.change(name, {"metadata": metadata})


def test_updates_of_values(enabled: Living) -> None:
    other = base64.b64encode(b"KSH1" + b"x" * 60).decode()
    assert "would be stored unsealed" in enabled.change("plain", {"data": {"a": "eA=="}})
    assert "would be stored unsealed" in enabled.change("sealed", {"data": {"b": "eA=="}})
    assert "would be stored unsealed" in enabled.change("damaged", {"data": {"a": other}})
    unmarked = {"metadata": {"labels": {"keyshred.dev/key-id": None}}}
    assert "KeyAuthorization" in enabled.change("sealed", {"data": {"b": "eA=="}} | unmarked)
    assert not enabled.change("sealed", unmarked)
    assert not enabled.change("sealed", {"data": {"a": other}})
    assert not enabled.change("plain", {"data": {"a": other}, "metadata": {"annotations": ENVELOPE}})
    assert not enabled.change("plain", {"data": {"a": None}})


def test_an_envelope_stays_with_its_values(enabled: Living) -> None:
    gone = {"metadata": {"annotations": {"keyshred.dev/envelope": None}}}
    assert "would be stored unsealed" in enabled.change("sealed", gone)
    assert not enabled.change("sealed", gone | {"data": {"a": None}})


def test_secrets_can_be_deleted(enabled: Living) -> None:
    for name in ("plain", "sealed", "damaged"):
        enabled.site.kubectl.run("delete", "secret", name, "-n", enabled.name, "--dry-run=server")


def test_retained_namespaces_are_free(living: Living) -> None:
    living.label("retained")
    assert not living.change("plain", {"data": {"a": "eA=="}})


@pytest.mark.parametrize("held", ["*", "other,plain,probe", "probe,plain"])
def test_what_is_held_passes_if_it_was_never_sealed(living: Living, held: str) -> None:
    living.label("enabled", held + ",sealed")
    assert not living.change("plain", {"data": {"a": "eA=="}})
    for labels in (MARK, {"keyshred.dev/key-id": None}):
        change = {"metadata": {"labels": labels}, "data": {"a": "eA=="}}
        assert "would be stored unsealed" in living.change("sealed", change)


def test_only_the_names_that_are_held_pass(living: Living) -> None:
    living.label("enabled", "probe,plai,plainer")
    assert "would be stored unsealed" in living.change("plain", {"data": {"a": "eA=="}})


def test_an_expired_one_demands_nothing_of_updates_once_its_status_says_so(site: Site, bare: Kubectl) -> None:
    name = site.namespace(None)
    bare.create(secret(name), grant(name, {"namespaces": {"names": [name]}, "expirationTime": "2020-01-01T00:00:00Z"}))
    site.set_own(name, "enabled")

    def change() -> str:
        return patched(bare, {"data": {"a": "eA=="}}, "secret", "app", "-n", name)

    until(change)
    condition = {"type": "Ready", "status": "False", "reason": "Expired", "message": "", "observedGeneration": 0}
    condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"

    def say(generation: int) -> None:
        status = json.dumps({"status": {"conditions": [condition | {"observedGeneration": generation}]}})
        patch = ("patch", "keyauthorization", name, "--subresource=status", "--type=merge", "-p", status)
        bare.run(*patch, *AS_CONTROLLER)

    generation = bare("get", "keyauthorization", name)["metadata"]["generation"]
    say(generation)
    until(lambda: not change())
    say(generation - 1)
    until(change)


def test_one_that_is_being_deleted_demands_nothing(site: Site, bare: Kubectl) -> None:
    name = site.namespace()
    made = grant(name, {"namespaces": {"names": [name]}})
    made["metadata"]["finalizers"] = ["test/a"]
    bare.create(made)
    until(lambda: answer(bare, "create", secret(name)))
    bare.run("delete", "keyauthorization", name, "--wait=false")
    until(lambda: not answer(bare, "create", secret(name)))
