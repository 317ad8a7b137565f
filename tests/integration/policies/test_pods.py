"""pods.keyshred.dev: no container starts with ciphertext."""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.cluster import accounts
from tests.integration.policies.asking import Json, Site, answer, grant, until

REF: Final[Json] = {"name": "db"}
ENV: Final[Json] = {"env": [{"name": "A", "valueFrom": {"secretKeyRef": REF | {"key": "a", "optional": True}}}]}
ENV_FROM: Final[Json] = {"envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": REF | {"optional": True}}]}
VOLUMES: Final[dict[str, Json]] = {
    "secret": {"secret": {"secretName": "db", "optional": True}},
    "projected": {"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": REF}]}},
}
CONTAINER: Final[Json] = {"name": "c", "image": "none"}

USES: Final[dict[str, Json]] = {
    f"volume {kind}": {"volumes": [{"name": "v", **source}]} for kind, source in VOLUMES.items()
} | {
    "env": {"containers": [CONTAINER | ENV]},
    "envFrom": {"containers": [CONTAINER, CONTAINER | {"name": "d"} | ENV_FROM]},
    "env of an init container": {"initContainers": [CONTAINER | {"name": "i"} | ENV]},
    "envFrom of an init container": {"initContainers": [CONTAINER | {"name": "i"} | ENV_FROM]},
}
FIELDS: Final = {"secret": "spec.volumes.secret", "projected": "spec.volumes.projected.sources.secret"}


def pod(place: str, **spec: object) -> Json:
    metadata = {"name": "p", "namespace": place}
    whole: Json = {"containers": [CONTAINER], "automountServiceAccountToken": False} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}


@pytest.fixture(scope="module", autouse=True)
def past_the_webhook(site: Site) -> Iterator[None]:
    """As pods look to the policy that another webhook changed after keyshred's."""
    configuration = site.kubectl("get", "mutatingwebhookconfiguration", "keyshred")
    others = [w for w in configuration["webhooks"] if w["name"] != "pods.keyshred.dev"]
    site.kubectl.run("replace", "-f", "-", input=json.dumps(configuration | {"webhooks": others}))
    place = site.namespace()
    accounts.create(site.kubectl, place)
    until(lambda: "admission webhook" not in answer(site.kubectl, "create", pod(place, **USES["env"])))
    yield
    site.keyshred.install_webhooks()


@pytest.fixture(scope="module")
def covered(site: Site) -> Iterator[str]:
    """Sealing, and the Secret `free` is left out."""
    place = site.namespace()
    accounts.create(site.kubectl, place)
    site.kubectl.create(
        grant(place, {"namespaces": {"names": [place]}, "secrets": {"exclude": {"names": ["free"]}}}),
        # Of another namespace: it has no say here.
        grant(f"{place}-other", {"namespaces": {"names": ["elsewhere"], "selector": {"matchLabels": {"x": "y"}}}}),
    )
    until(lambda: answer(site.kubectl, "create", pod(place, **USES["env"])))
    yield place
    site.kubectl.run("delete", "keyauthorization", place, f"{place}-other")


@pytest.fixture(scope="module")
def retained(site: Site) -> str:
    place = site.namespace("retained")
    accounts.create(site.kubectl, place)
    until(lambda: answer(site.kubectl, "create", pod(place, **USES["env"])))
    return place


@pytest.mark.parametrize("use", USES)
def test_a_pod_that_uses_a_secret_natively(site: Site, covered: str, use: str) -> None:
    said = answer(site.kubectl, "create", pod(covered, **USES[use]))
    kind = use.removeprefix("volume ")
    field = FIELDS.get(kind, kind.split()[0] + ".")
    for part in (field, f"namespace {covered}", f"exclude.names of KeyAuthorization {covered}", "docs/workloads.md"):
        assert part in said
    free = json.loads(json.dumps(pod(covered, **USES[use])).replace('"db"', '"free"'))
    assert not answer(site.kubectl, "create", free)


def test_in_a_retained_namespace_as_well(site: Site, retained: str) -> None:
    said = answer(site.kubectl, "create", pod(retained, **USES["volume secret"]))
    assert f"namespace {retained}" in said and "a volume of the driver csi.keyshred.dev" in said


def test_what_shows_no_container_a_value_is_free(site: Site, covered: str, retained: str) -> None:
    for place in (covered, retained):
        volumes = [
            {"name": "v", "configMap": {"name": "c"}},
            # Whether its Secret is sealed is for the webhook to see.
            {"name": "w", "csi": {"driver": "d", "nodePublishSecretRef": REF}},
            {"name": "x", "csi": {"driver": "csi.keyshred.dev", "volumeAttributes": {"keyshred.dev/files": "{}"}}},
        ]
        assert not answer(site.kubectl, "create", pod(place, volumes=volumes, imagePullSecrets=[REF]))


def test_ephemeral_containers(site: Site, covered: str) -> None:
    """Those that are asked for now; what the pod has from before stays its own."""
    place = site.namespace(None)
    accounts.create(site.kubectl, place)
    site.kubectl.create(pod(place, containers=[CONTAINER | ENV_FROM]), grant(place, {"namespaces": {"names": [place]}}))
    site.set_own(place, "enabled")

    def debug(**container: object) -> str:
        whole = site.kubectl("get", "pod", "p", "-n", place)
        whole["spec"]["ephemeralContainers"] = [CONTAINER | {"name": "e"} | container]
        path = f"/api/v1/namespaces/{place}/pods/p/ephemeralcontainers?dryRun=All"
        done = site.kubectl.run("replace", "--raw", path, "-f", "-", input=json.dumps(whole), check=False)
        return done.stderr if done.returncode else ""

    until(lambda: "envFrom.secretRef" in debug(**ENV_FROM))
    assert "env.valueFrom.secretKeyRef" in debug(**ENV)
    assert not debug()
    site.kubectl.run("delete", "keyauthorization", place)
