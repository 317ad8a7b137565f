"""Which KeyAuthorization decides over a Secret, and what its mode makes of it, on the real API server."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from subprocess import CompletedProcess
from typing import Any

import pytest

from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_HELD, LABEL_KEY_ID, LABEL_ROOT_KEY
from keyshred.times import rfc3339
from tests.cluster.keyshred import Keyshred
from tests.integration.controller.lab import until, until_equal
from tests.integration.system.tenant import Tenant, authorization, decoded, secret

CONTROLLER = "--as=system:serviceaccount:keyshred:keyshred-controller"


@contextmanager
def _without_controller(keyshred: Keyshred) -> Iterator[None]:
    """The webhook decides alone, and nobody brings labels and Secrets in line with what a test sets."""
    keyshred.controller.stop()
    try:
        yield
    finally:
        keyshred.start_controller()


def _write(tenant: Tenant, manifest: dict[str, Any], *how: str) -> "CompletedProcess[str]":
    how = how or ("apply", "--server-side", "--force-conflicts")
    return tenant.kubectl.run(*how, "-f", "-", input=json.dumps(manifest), check=False)


def _set(tenant: Tenant, **spec: Any) -> None:
    """Changes the tenant's KeyAuthorization. The webhook sees that before anything that is written later."""
    patch = f"--patch={json.dumps({'spec': spec})}"
    tenant.kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", patch)


def _is_sealed(tenant: Tenant, name: str) -> bool:
    """Sealed whole, or not at all."""
    values = decoded(tenant.stored(name)).values()
    sealed = {v.startswith(b"KSH1") for v in values}
    assert len(sealed) == 1
    return sealed.pop()


def _kind(tenant: Tenant, name: str) -> str:
    """How a Secret of that name would be stored now."""
    answer = tenant.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(secret(tenant.name, name, V)))
    return "sealed" if base64.b64decode(answer["data"]["a"]).startswith(b"KSH1") else "plain"


def _stores_sealed(tenant: Tenant, manifest: dict[str, Any]) -> bool:
    return _write(tenant, manifest).returncode == 0 and _is_sealed(tenant, manifest["metadata"]["name"])


V = {"a": "one"}


def test_secrets_are_chosen_by_selector_type_and_exclusion(tenant: Tenant) -> None:
    tenant.expect_plaintext("by-label", "by-selector", "left-out", "open-type", "other-type")
    _set(
        tenant,
        secrets={
            "selector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["open"]}]},
            "types": ["Opaque", "kubernetes.io/tls"],
            "exclude": {
                "names": ["left-out"],
                "types": ["example.org/open"],
                "selector": {"matchLabels": {"app": "open"}},
            },
        },
    )
    until_equal(lambda: _kind(tenant, "left-out"), "plain")
    pem = {"tls.crt": base64.b64encode(b"certificate").decode(), "tls.key": base64.b64encode(b"key").decode()}
    expected: dict[str, tuple[bool, dict[str, Any]]] = {
        "plain-one": (True, {}),
        "tls-by-name": (True, {"type": "kubernetes.io/tls", "data": pem, "stringData": {}}),
        "other-type": (False, {"type": "example.org/other"}),
        "open-type": (False, {"type": "example.org/open"}),
        "left-out": (False, {}),
        "by-selector": (False, {"metadata": {"labels": {"tier": "open"}}}),
        "by-label": (False, {"metadata": {"labels": {"app": "open"}}}),
    }
    for name, (_, fields) in expected.items():
        metadata = {"name": name, "namespace": tenant.name} | fields.get("metadata", {})
        tenant.kubectl.create(secret(tenant.name, name, V) | fields | {"metadata": metadata})
    assert {name: _is_sealed(tenant, name) for name in expected} == {k: sealed for k, (sealed, _) in expected.items()}


def test_tls_is_left_alone_where_nobody_names_it(tenant: Tenant) -> None:
    tenant.expect_plaintext("tls")
    pem = {"tls.crt": base64.b64encode(b"certificate").decode(), "tls.key": base64.b64encode(b"key").decode()}
    tenant.kubectl.create(secret(tenant.name, "tls", {}, type="kubernetes.io/tls", data=pem))
    assert not _is_sealed(tenant, "tls")


def test_two_for_one_key_add_up_and_two_keys_need_a_choice(tenant: Tenant, other: Tenant) -> None:
    """Union of KeyAuthorizations of one key; of two keys the label decides; then the Secret moves, and back."""
    narrow = {"secrets": {"selector": {"matchLabels": {"tier": "a"}}}}
    _set(tenant, **narrow)
    until_equal(lambda: _kind(tenant, "none"), "plain")
    second = f"{tenant.name}-second"
    ref = {"rootKeyRef": {"name": tenant.name}, "secrets": {"selector": {"matchLabels": {"tier": "b"}}}}
    tenant.kubectl.apply(authorization(second, [tenant.name], **ref))
    for name in ("a", "b"):
        manifest = secret(tenant.name, name, V, metadata={"labels": {"tier": name}})
        tenant.keyshred.webhook.wait_until(partial(_stores_sealed, tenant, manifest))

    # A second key for all of them.
    rival = f"{tenant.name}-rival"
    reader = {"namespace": tenant.name, "name": "app", "allowUnbound": True}
    spec = {"rootKeyRef": {"name": other.name}, "subjects": [reader]}
    tenant.kubectl.apply(authorization(rival, [tenant.name], **spec))
    labelled = secret(tenant.name, "c", V, metadata={"labels": {"tier": "a"}})
    until(lambda: "choose one with the label" in _write(tenant, labelled, "create", "--dry-run=server").stderr)
    reseal = _write(tenant, secret(tenant.name, "a", {"a": "new"}, metadata={"labels": {"tier": "a"}}))
    assert reseal.returncode == 0, "what is sealed already has its label"
    wrong = secret(tenant.name, "c", V, metadata={"labels": {LABEL_ROOT_KEY: "nobody"}})
    assert "no KeyAuthorization gives this Secret" in _write(tenant, wrong).stderr

    # The Secret moves.
    before = tenant.stored("a")
    label = ("label", "secret", "a", "-n", tenant.name, "--overwrite")
    tenant.kubectl.run(*label, f"{LABEL_ROOT_KEY}={other.name}")
    moved = tenant.stored("a")
    assert moved["metadata"]["labels"][LABEL_KEY_ID] == other.key_id != before["metadata"]["labels"][LABEL_KEY_ID]
    assert not set(moved["data"].values()) & set(before["data"].values())
    assert tenant.unseal("a") == {"a": "new"}
    other.kubectl.run("patch", "rootkey", other.name, "--type=merge", '--patch={"spec": {"suspended": true}}')
    until_equal(lambda: tenant.ask("a")[0], 403)
    refused = tenant.kubectl.run(*label, f"{LABEL_ROOT_KEY}={tenant.name}", check=False)
    assert "is Suspended, and both keys must be Active" in refused.stderr
    other.kubectl.run("patch", "rootkey", other.name, "--type=merge", '--patch={"spec": {"suspended": false}}')
    until_equal(lambda: tenant.ask("a")[0], 200)
    tenant.kubectl.run(*label, f"{LABEL_ROOT_KEY}={tenant.name}")
    tenant.kubectl.run("delete", "keyauthorization", rival)
    assert tenant.stored("a")["metadata"]["labels"][LABEL_KEY_ID] == tenant.key_id
    refused = tenant.kubectl.run(*label, f"{LABEL_ROOT_KEY}={other.name}", check=False)
    assert "no KeyAuthorization gives this Secret" in refused.stderr


def test_an_authorisation_that_expires_while_all_runs(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    token = tenant.token()
    _set(tenant, expirationTime=rfc3339(datetime.now(UTC) + timedelta(seconds=10)))
    assert tenant.ask("app", token)[0] == 200
    until_equal(lambda: tenant.ask("app", token)[0], 403)
    changed = _write(tenant, secret(tenant.name, "app", {"a": "two"}))
    assert "no KeyAuthorization in force covers" in changed.stderr
    tenant.kubectl.run("label", "secret", "app", "-n", tenant.name, "team=red")
    _set(tenant, expirationTime=None)
    until_equal(lambda: tenant.ask("app", token)[0], 200)


def test_unseal_alone_keeps_reading_and_seals_nothing_new(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    before = tenant.stored("app")
    with _without_controller(tenant.keyshred):
        _set(tenant, operations=["Unseal"])
        until_equal(lambda: _kind(tenant, "new"), "plain")
        assert tenant.unseal("app") == {"a": "one"}
        assert _write(tenant, secret(tenant.name, "app", {"a": "one"})).returncode == 0
        assert decoded(tenant.stored("app")) == decoded(before)
        assert "no KeyAuthorization in force covers" in _write(tenant, secret(tenant.name, "app", {"a": "2"})).stderr


def test_preview_changes_nothing(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    before = tenant.stored("app")
    with _without_controller(tenant.keyshred):
        _set(tenant, mode="Preview")
        until_equal(lambda: _kind(tenant, "new"), "plain")
        assert tenant.ask("app")[0] == 403
        assert "no KeyAuthorization in force covers" in _write(tenant, secret(tenant.name, "app", {"a": "one"})).stderr
        assert decoded(tenant.stored("app")) == decoded(before)


def test_release_stores_what_comes_in_plaintext(tenant: Tenant) -> None:
    tenant.expect_plaintext("app")
    manifest = secret(tenant.name, "app", {}, data={k: base64.b64encode(k.encode()).decode() for k in "ab"})
    _write(tenant, manifest, "apply")
    before = tenant.stored("app")
    with _without_controller(tenant.keyshred):
        _set(tenant, mode="Release")
        until_equal(lambda: _kind(tenant, "new"), "plain")
        assert tenant.unseal("app") == {"a": "a", "b": "b"}, "until it is released it can be read"
        patch = json.dumps({"stringData": {"b": "changed"}})
        tenant.kubectl.run("patch", "secret", "app", "-n", tenant.name, "--type=merge", f"--patch={patch}")
        assert _is_sealed(tenant, "app") and tenant.unseal("app") == {"a": "a", "b": "changed"}
        tenant.kubectl.run("label", "secret", "app", "-n", tenant.name, "team=red")
        assert _is_sealed(tenant, "app")

        assert _write(tenant, manifest, "apply").returncode == 0
        released = tenant.stored("app")
        assert decoded(released) == {"a": b"a", "b": b"b"}
        assert set(released["metadata"]["labels"]) == {"team"} and LABEL_KEY_ID in before["metadata"]["labels"]
        assert ANNOTATION_ENVELOPE not in released["metadata"]["annotations"]
        diff = tenant.kubectl.run("diff", "-f", "-", input=json.dumps(manifest), check=False)
        assert (diff.returncode, diff.stdout) == (0, "")
        _write(tenant, manifest, "apply")
        assert tenant.stored("app")["metadata"]["resourceVersion"] == released["metadata"]["resourceVersion"]

        _set(tenant, mode="Enforce")
        until_equal(lambda: _kind(tenant, "new"), "sealed")
        tenant.kubectl.run("label", "secret", "app", "-n", tenant.name, "team=blue", "--overwrite")
        assert _is_sealed(tenant, "app")


@pytest.mark.parametrize("held", ["app,another", "*"])
def test_held_secrets_are_stored_as_they_are_with_a_warning(tenant: Tenant, held: str) -> None:
    tenant.expect_plaintext("app")
    tenant.create_secret("sealed", a="one")
    sealed = tenant.stored("sealed")
    with _without_controller(tenant.keyshred):
        namespace = ("annotate", "namespace", tenant.name, CONTROLLER)
        tenant.kubectl.run(*namespace, f"{ANNOTATION_HELD}={held}")
        until_equal(lambda: _kind(tenant, "app"), "plain")
        stored = _write(tenant, secret(tenant.name, "app", {"a": "one"}))
        assert f"Secret {tenant.name}/app was stored in plaintext: it is held" in stored.stderr
        assert decoded(tenant.stored("app")) == {"a": b"one"}
        changed = _write(tenant, secret(tenant.name, "sealed", {"a": "two"}))
        assert changed.stderr == "" and tenant.unseal("sealed") == {"a": "two"} and _is_sealed(tenant, "sealed")
        assert _kind(tenant, "free") == ("plain" if held == "*" else "sealed")
        # A sealed one that comes back is as it was; one that is created anew was never sealed.
        tenant.kubectl.run("delete", "secret", "sealed", "-n", tenant.name)
        for volatile in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
            sealed["metadata"].pop(volatile, None)
        assert _write(tenant, sealed, "create").returncode == 0 and tenant.unseal("sealed") == {"a": "one"}

        tenant.kubectl.run(*namespace, f"{ANNOTATION_HELD}-")
        until_equal(lambda: _kind(tenant, "app-2"), "sealed")
        tenant.kubectl.run("annotate", "secret", "app", "-n", tenant.name, "touched=yes")
        assert _is_sealed(tenant, "app")


def test_always_reseal_never_compares(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    before = tenant.stored("app")
    assert _write(tenant, secret(tenant.name, "app", V)).returncode == 0
    assert decoded(tenant.stored("app")) == decoded(before)
    _set(tenant, reapply="AlwaysReseal")

    def differs() -> bool:
        _write(tenant, secret(tenant.name, "app", V))
        return decoded(tenant.stored("app")) != decoded(before)

    until(differs)
    assert tenant.unseal("app") == V
