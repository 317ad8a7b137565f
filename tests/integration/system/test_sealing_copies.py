"""Ciphertext that comes back, at its own place and elsewhere, on the real API server."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from keyshred.names import ANNOTATION_ENVELOPE, LABEL_KEY_ID, LABEL_KEY_VERSION, LABEL_ROOT_KEY
from tests.integration.controller.lab import until
from tests.integration.system.tenant import Tenant, decoded, secret

_OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation")


def _backup(tenant: Tenant, name: str) -> dict[str, Any]:
    """The stored Secret, as a backup tool keeps it."""
    stored = tenant.stored(name)
    stored["metadata"] = {k: v for k, v in stored["metadata"].items() if k not in _OF_THE_SERVER}
    return stored


def _write(tenant: Tenant, how: str, manifest: Mapping[str, Any]) -> tuple[int, str]:
    done = tenant.kubectl.run(*how.split(), "-f", "-", input=json.dumps(manifest), check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("how", ["create", "apply", "apply --server-side", "replace --force"])
def test_a_backup_comes_back_whole(tenant: Tenant, how: str) -> None:
    tenant.create_secret("app", a="one", b="two")
    backup = _backup(tenant, "app")
    if how != "replace --force":
        tenant.kubectl.run("delete", "secret", "app", "-n", tenant.name)
    assert _write(tenant, how, backup) == (0, "")
    assert tenant.stored("app")["data"] == backup["data"]
    assert tenant.unseal("app") == {"a": "one", "b": "two"}


def test_a_backup_comes_back_over_a_later_state(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    backup = _backup(tenant, "app")
    tenant.kubectl.run("replace", "-f", "-", input=json.dumps(secret(tenant.name, "app", {"a": "later", "b": "new"})))
    assert tenant.unseal("app") == {"a": "later", "b": "new"}
    assert _write(tenant, "replace", backup) == (0, "")
    assert tenant.stored("app")["data"] == backup["data"] and tenant.unseal("app") == {"a": "one"}


def test_a_backup_comes_back_into_a_namespace_that_is_made_anew(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    backup, token = _backup(tenant, "app"), tenant.token()
    kubectl = tenant.kubectl
    kubectl.run("delete", "secrets,serviceaccounts,rolebindings", "--all", "-n", tenant.name)
    kubectl.run("delete", "namespace", tenant.name, "--wait=false")
    gone = kubectl("get", "namespace", tenant.name) | {"spec": {"finalizers": []}}
    # There is no controller-manager that would empty it and let it go.
    kubectl.run("replace", "--raw", f"/api/v1/namespaces/{tenant.name}/finalize", "-f", "-", input=json.dumps(gone))
    kubectl.run("wait", "--for=delete", f"namespace/{tenant.name}", "--timeout=180s")
    assert tenant.ask("app", token)[0] in (401, 403)

    kubectl.run("create", "namespace", tenant.name)
    kubectl.run("create", "serviceaccount", "app", "-n", tenant.name)
    until(lambda: LABEL_KEY_ID in _dry_run(tenant)["metadata"].get("labels", {}))
    assert _write(tenant, "apply", backup) == (0, "")
    until(lambda: tenant.ask("app")[0] == 200)
    assert tenant.unseal("app") == {"a": "one"}


def _dry_run(tenant: Tenant) -> dict[str, Any]:
    manifest = json.dumps(secret(tenant.name, "probe", {"a": "x"}))
    done = tenant.kubectl.run("create", "--dry-run=server", "-o", "json", "-f", "-", input=manifest, check=False)
    answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"metadata": {}}
    return answer


def test_copies_elsewhere_and_forgeries_are_refused(tenant: Tenant, other: Tenant) -> None:
    tenant.create_secret("app", a="one", b="two")
    stored = _backup(tenant, "app")
    data, meta = stored["data"], stored["metadata"]
    envelope = meta["annotations"][ANNOTATION_ENVELOPE]
    raw = bytearray(base64.b64decode(data["a"]))
    raw[-1] ^= 1
    forged = envelope.replace(tenant.name, other.name)
    flipped = base64.b64encode(raw).decode()
    tenant.kubectl.run("delete", "secret", "app", "-n", tenant.name)
    for changed, reason in (
        (
            stored | {"metadata": meta | {"name": "copy"}},
            f"were sealed for Secret {tenant.name}/app and open only there",
        ),
        (
            stored | {"metadata": meta | {"namespace": other.name}},
            f"were sealed for Secret {tenant.name}/app and open only there",
        ),
        (stored | {"data": {"c": data["a"]}}, "data[c] is sealed but does not open"),
        (stored | {"data": {"a": data["b"], "b": data["a"]}}, "is sealed but does not open"),
        (stored | {"data": data | {"a": flipped}}, "data[a] is sealed but does not open"),
        (stored | {"metadata": meta | {"annotations": {}}}, "starts with KSH1, the mark of a sealed value, but the"),
        (stored | {"metadata": meta | {"annotations": {ANNOTATION_ENVELOPE: "{}"}}}, "is damaged"),
        (stored | {"metadata": meta | {"annotations": {ANNOTATION_ENVELOPE: forged}}}, "sealed for Secret"),
    ):
        code, said = _write(tenant, "create", changed)
        assert code != 0 and reason in said, (reason, said)
    # One value of another Secret, among the own ones.
    assert _write(tenant, "create", stored) == (0, "")
    tenant.create_secret("second", a="one")
    foreign = tenant.stored("second")["data"]["a"]
    patch = json.dumps({"data": {"a": foreign}})
    done = tenant.kubectl.run(
        "patch", "secret", "app", "-n", tenant.name, "--type=merge", f"--patch={patch}", check=False
    )
    assert "data[a] is sealed but does not open" in done.stderr
    assert tenant.stored("app")["data"] == data
    assert other.kubectl.run("get", "secret", "app", "-n", other.name, check=False).returncode != 0


def test_what_keyshred_writes_is_put_back(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    before = tenant.stored("app")
    own = (LABEL_KEY_ID, LABEL_KEY_VERSION, LABEL_ROOT_KEY)
    for labels, annotations in (
        (dict.fromkeys(own), {ANNOTATION_ENVELOPE: None}),
        ({LABEL_KEY_ID: "x", LABEL_KEY_VERSION: "7"}, {ANNOTATION_ENVELOPE: "{}"}),
    ):
        patch = json.dumps({"metadata": {"labels": labels, "annotations": annotations}})
        tenant.kubectl.run("patch", "secret", "app", "-n", tenant.name, "--type=merge", f"--patch={patch}")
        after = tenant.stored("app")
        for kind in ("labels", "annotations"):
            assert after["metadata"][kind] == before["metadata"][kind]
    assert tenant.unseal("app") == {"a": "one"}
    # Without its last value there is nothing to be opened: the envelope goes too.
    tenant.kubectl.run("patch", "secret", "app", "-n", tenant.name, "--type=merge", '--patch={"data": null}')
    emptied = tenant.stored("app")
    assert "data" not in emptied and ANNOTATION_ENVELOPE not in emptied["metadata"].get("annotations", {})
    assert tenant.unseal("app") == {}


def test_a_destroyed_secret_comes_back_and_is_replaced_under_a_new_key(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    backup = _backup(tenant, "app")
    tenant.delete_key()
    tenant.kubectl.run("delete", "secret", "app", "-n", tenant.name)
    code, said = _write(tenant, "apply", backup)
    assert code == 0 and "unverified, and its values can never be read again" in said
    assert decoded(tenant.stored("app")) == decoded(backup) and tenant.ask("app")[0] == 410
    # With plaintext among it there is something to seal, and no key for it.
    mixed = backup | {"stringData": {"b": "plain"}, "metadata": backup["metadata"] | {"name": "app"}}
    code, said = _write(tenant, "replace", mixed)
    assert code != 0 and "plain" not in said
