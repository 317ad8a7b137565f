"""Pods in sealing namespaces, as a real API server stores them; tests/e2e runs them on a node."""

import json
from typing import Any, Final

import pytest

from tests.integration.system.tenant import Tenant, secret

VALUES: Final = {"user": "admin", "password": "a-password-for-pods"}
CONTAINER: Final = {"name": "web", "image": "none"}


def _pod(tenant: Tenant, name: str, **spec: Any) -> dict[str, Any]:
    whole = {"containers": [CONTAINER], "automountServiceAccountToken": False, "serviceAccountName": "app"} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": tenant.name}, "spec": whole}


def _everything(tenant: Tenant, name: str = "web") -> dict[str, Any]:
    """Every native use that keyshred takes over."""
    env = [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
        {"name": "URL", "value": "db://$(PASSWORD)"},
    ]
    mounts = [{"name": "files", "mountPath": "/files"}, {"name": "both", "mountPath": "/both"}]
    web = CONTAINER | {"env": env, "envFrom": [{"secretRef": {"name": "db"}, "prefix": "DB_"}], "volumeMounts": mounts}
    volumes = [
        {"name": "files", "secret": {"secretName": "db", "defaultMode": 0o400}},
        {"name": "both", "projected": {"sources": [{"secret": {"name": "db"}}, {"secret": {"name": "other"}}]}},
        {"name": "tmp", "emptyDir": {}},
    ]
    first = CONTAINER | {"name": "first", "env": env[:1]}
    return _pod(tenant, name, containers=[web], initContainers=[first], volumes=volumes)


@pytest.fixture
def sealed(tenant: Tenant) -> Tenant:
    """With two sealed Secrets."""
    tenant.create_secret("db", **VALUES)
    tenant.create_secret("other", more="value")
    return tenant


def _answer(tenant: Tenant, *manifests: dict[str, Any]) -> str:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    return tenant.kubectl.run("create", "-f", "-", input=text, check=False).stderr


def _get(tenant: Tenant, name: str = "web") -> dict[str, Any]:
    return dict(tenant.kubectl("get", "pod", name, f"--namespace={tenant.name}"))


def test_no_native_use_is_left_and_no_value_is_in_the_pod(sealed: Tenant) -> None:
    sealed.kubectl.create(_everything(sealed))
    pod = _get(sealed)
    spec = json.dumps(pod["spec"])
    for native in ("secretName", "secretKeyRef", "secretRef", '"secret":', VALUES["password"]):
        assert native not in spec
    drivers = [v["csi"]["driver"] for v in pod["spec"]["volumes"] if "csi" in v]
    assert drivers == ["csi.keyshred.dev"] * 3
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["keyshred-env", "first"]
    assert pod["spec"]["nodeSelector"] == {"keyshred.dev/env-files": "true"}
    assert pod["status"]["qosClass"] == "BestEffort"
    kept = pod["metadata"]["annotations"]["backup.velero.io/backup-volumes-excludes"]
    assert kept.split(",") == ["files", "both", "keyshred-env-source", "keyshred-env"]
    web = pod["spec"]["containers"][0]
    assert [m.get("readOnly") for m in web["volumeMounts"]] == [True, True]
    assert [e["name"] for e in web["env"]] == ["DB_password", "DB_user", "PASSWORD", "URL"]


def test_nobody_is_warned_of_what_keyshred_did(sealed: Tenant) -> None:
    done = sealed.kubectl.run("create", "-f", "-", input=json.dumps(_everything(sealed)))
    assert done.stderr == ""


def test_its_token_opens_what_it_refers_to_and_nothing_else(sealed: Tenant) -> None:
    sealed.create_secret("third", a="one")
    bound = {"spec": {"subjects": [{"namespace": sealed.name, "name": "app"}]}}
    sealed.kubectl.run("patch", "keyauthorization", sealed.name, "--type=merge", "-p", json.dumps(bound))
    sealed.kubectl.create(*(_everything(sealed, name) for name in ("web", "api")))
    foreign = _everything(sealed, "foreign")
    foreign["spec"]["serviceAccountName"] = "stranger"
    sealed.kubectl.create(foreign)
    token = sealed.token("app", pod="web")
    sealed.keyshred.webhook.wait_until(lambda: sealed.ask("db")[0] == 403)
    assert [sealed.ask(name, token)[0] for name in ("db", "other", "third")] == [200, 200, 403]
    assert sealed.ask("db", sealed.token("stranger", pod="foreign"))[0] == 403, "subjects decide, whoever mounts it"
    sealed.kubectl.run("delete", "pod", "web", f"--namespace={sealed.name}", "--grace-period=0", "--force")
    assert sealed.ask("db", token)[0] in (401, 403), "a token ends with its pod"


@pytest.mark.parametrize("way", ["apply", "server-side", "replace"])
def test_a_manifest_that_is_applied_again(sealed: Tenant, way: str) -> None:
    manifest = json.dumps(_everything(sealed))
    commands = {
        "apply": ["apply", "-f", "-"],
        "server-side": ["apply", "--server-side", "-f", "-"],
        "replace": ["replace", "-f", "-"],
    }
    first = commands[way] if way != "replace" else ["create", "-f", "-"]
    sealed.kubectl.run(*first, input=manifest)
    before = _get(sealed)
    for _ in range(2):
        sealed.kubectl.run(*commands[way], input=manifest)
    assert _get(sealed)["spec"] == before["spec"]
    changed = json.loads(manifest)
    changed["metadata"]["labels"] = {"team": "red"}
    changed["spec"]["containers"][0]["image"] = "another"
    sealed.kubectl.run(*commands[way], input=json.dumps(changed))
    assert _get(sealed)["spec"]["containers"][0]["image"] == "another"
    changed["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["key"] = "user"
    done = sealed.kubectl.run(*commands[way], input=json.dumps(changed), check=False)
    assert done.returncode and "pod updates may not change fields" in done.stderr + done.stdout


MAP: Final = {"name": "c"}
USER: Final = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "user"}}}
REFUSED: Final[dict[str, tuple[dict[str, Any], tuple[str, ...]]]] = {
    "mixed": (
        {
            "volumes": [
                {"name": "v", "projected": {"sources": [{"secret": {"name": "db"}}, {"configMap": {"name": "c"}}]}}
            ]
        },
        ("spec.volumes[0].projected.sources", "make two volumes"),
    ),
    "another driver": (
        {"volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "db"}}}]},
        ("spec.volumes[0].csi.nodePublishSecretRef.name", "Secret db is sealed", "secrets.exclude.names"),
    ),
    "envFrom of nothing": (
        {"containers": [CONTAINER | {"envFrom": [{"secretRef": {"name": "absent"}}]}]},
        ("spec.containers[0].envFrom[0].secretRef", "Secret absent does not exist"),
    ),
    "Windows": (
        {"os": {"name": "windows"}, "volumes": [{"name": "v", "secret": {"secretName": "db"}}]},
        ("spec.volumes[0].secret", "Windows"),
    ),
    "our name": (
        {
            "volumes": [{"name": "keyshred-env", "emptyDir": {}}],
            "containers": [
                CONTAINER | {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "user"}}}]}
            ],
        },
        ("spec.volumes[0].name", "keyshred-env"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_with_field_reason_and_way_out(sealed: Tenant, case: str) -> None:
    spec, parts = REFUSED[case]
    said = _answer(sealed, _pod(sealed, "web", **spec))
    for part in parts:
        assert part in said
    assert "denied the request" in said


def test_a_later_config_map_that_overrides(sealed: Tenant) -> None:
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "over", "namespace": sealed.name},
        "data": {"user": "x"},
    }
    sealed.kubectl.create(config_map)
    sources = [{"secretRef": {"name": "db"}}, {"configMapRef": {"name": "over"}}]
    said = _answer(sealed, _pod(sealed, "web", containers=[CONTAINER | {"envFrom": sources}]))
    assert "ConfigMap over" in said and "user" in said
    assert "denied" not in _answer(sealed, _pod(sealed, "web", containers=[CONTAINER | {"envFrom": sources[::-1]}]))


def test_a_value_that_is_known_not_to_fit_a_variable(tenant: Tenant) -> None:
    """Of a type that is never sealed, so that its value is there to be seen."""
    odd = secret(tenant.name, "odd", {".dockercfg": '{"it": "has \'"}'}, type="kubernetes.io/dockercfg")
    tenant.kubectl.create(odd)
    reference = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "odd", "key": ".dockercfg"}}}
    said = _answer(tenant, _pod(tenant, "web", containers=[CONTAINER | {"env": [reference]}]))
    assert "key .dockercfg of Secret odd" in said and "single quote" in said and "mount it as a file" in said
    assert '"it"' not in said


def test_names_that_are_left_out_stay_native(sealed: Tenant) -> None:
    exclude = {"spec": {"secrets": {"exclude": {"names": ["free", "db"]}}}}
    sealed.kubectl.run("patch", "keyauthorization", sealed.name, "--type=merge", "-p", json.dumps(exclude))
    volumes = [{"name": n, "secret": {"secretName": n}} for n in ("free", "db")]

    def kinds() -> list[list[str]]:
        text = json.dumps(_pod(sealed, "web", volumes=volumes))
        made = json.loads(sealed.kubectl.run("create", "--dry-run=server", "-ojson", "-f", "-", input=text).stdout)
        return [sorted(v.keys() - {"name"}) for v in made["spec"]["volumes"]]

    sealed.keyshred.webhook.wait_until(lambda: kinds()[0] == ["secret"])
    assert kinds() == [["secret"], ["csi"]], "one that is sealed already is opened for the pod"


def test_an_ephemeral_container(sealed: Tenant) -> None:
    sealed.kubectl.create(_everything(sealed))

    def debug(*entries: dict[str, Any]) -> str:
        whole = _get(sealed)
        whole["spec"]["ephemeralContainers"] = [CONTAINER | {"name": "debug", "env": list(entries)}]
        path = f"/api/v1/namespaces/{sealed.name}/pods/web/ephemeralcontainers?dryRun=All"
        done = sealed.kubectl.run("replace", "--raw", path, "-f", "-", input=json.dumps(whole), check=False)
        return done.stderr if done.returncode else done.stdout

    there = {"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
    assert '"fileKeyRef"' in debug(there)
    said = debug({"name": "P", "valueFrom": {"secretKeyRef": {"name": "other", "key": "more"}}})
    assert "spec.ephemeralContainers[0].env[0]" in said and "a running pod gets no more volumes" in said


def test_a_namespace_that_keyshred_has_no_business_in(sealed: Tenant) -> None:
    place = f"{sealed.name}-plain"
    sealed.kubectl.run("create", "namespace", place)
    sealed.kubectl.run("create", "serviceaccount", "app", f"--namespace={place}")
    pod = _everything(sealed)
    pod["metadata"]["namespace"] = place
    made = json.loads(
        sealed.kubectl.run("create", "--dry-run=server", "-ojson", "-f", "-", input=json.dumps(pod)).stdout
    )
    assert made["spec"]["volumes"][0]["secret"]["secretName"] == "db"
