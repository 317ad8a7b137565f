"""What may be written in each state of a key: the table of the states, on the real API server."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest

from tests.integration.system.tenant import Tenant, authorization, decoded, root_key, secret

PLAIN = {"a": "one", "b": "two"}
FINALIZER = "example.org/hold"
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "7d9c1f2a-1b3c-4e5f-8a9b-0c1d2e3f4a5b"}


@contextmanager
def _patched(tenant: Tenant, state: str, spec: dict[str, Any]) -> Iterator[None]:
    tenant.kubectl.run("patch", "rootkey", tenant.name, "--type=merge", f"--patch={json.dumps({'spec': spec})}")
    wait = f"--for=jsonpath={{.status.state}}={state}"
    tenant.kubectl.run("wait", wait, f"rootkey/{tenant.name}", "--timeout=180s")
    yield


def _suspended(tenant: Tenant) -> Any:
    return _patched(tenant, "Suspended", {"suspended": True})


def _not_yet_active(tenant: Tenant) -> Any:
    return _patched(tenant, "PreActivation", {"activationTime": "2090-01-01T00:00:00Z"})


def _deactivated(tenant: Tenant) -> Any:
    return _patched(tenant, "Deactivated", {"expirationTime": "2026-01-01T00:00:00Z"})


@contextmanager
def _pending(tenant: Tenant) -> Iterator[None]:
    """Deleted while nobody is there to destroy the key."""
    tenant.keyshred.controller.stop()
    try:
        tenant.kubectl.run("delete", "rootkey", tenant.name, "--wait=false")
        yield
    finally:
        tenant.keyshred.start_controller()


@contextmanager
def _destroyed(tenant: Tenant) -> Iterator[None]:
    tenant.delete_key()
    yield


@contextmanager
def _hsm_away(tenant: Tenant) -> Iterator[None]:
    tenant.keyshred.token.take_away()
    try:
        yield
    finally:
        tenant.keyshred.token.give_back()
        tenant.keyshred.webhook.wait_until(tenant.keyshred.is_ready)


@contextmanager
def _active(tenant: Tenant) -> Iterator[None]:
    yield


class Row(NamedTuple):
    """One state: how to get there, whether values are sealed and opened in it, and what is said otherwise."""

    enter: Callable[[Tenant], Any]
    seals: bool
    opens: bool
    unseal: int
    reason: str


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(Row(_active, True, True, 200, ""), id="Active"),
        pytest.param(Row(_not_yet_active, False, False, 403, "PreActivation"), id="PreActivation"),
        pytest.param(Row(_suspended, False, False, 403, "Suspended"), id="Suspended"),
        pytest.param(Row(_deactivated, False, True, 200, "Deactivated"), id="Deactivated"),
        pytest.param(Row(_pending, False, False, 403, "PendingDestruction"), id="PendingDestruction"),
        pytest.param(Row(_destroyed, False, False, 410, ""), id="Destroyed"),
        pytest.param(Row(_hsm_away, False, False, 503, ""), id="HSM away"),
    ],
)
def test_what_may_be_written(tenant: Tenant, row: Row) -> None:
    manifest = secret(tenant.name, "app", PLAIN, metadata={"finalizers": [FINALIZER]})
    tenant.kubectl.apply(manifest)
    tenant.create_secret("backup", **PLAIN)
    backup = tenant.stored("backup")
    tenant.kubectl.run("delete", "secret", "backup", "-n", tenant.name)
    token, before = tenant.token(), tenant.stored("app")

    def write(*arguments: str, manifest: Any = None) -> tuple[bool, str]:
        done = tenant.kubectl.run(*arguments, input=json.dumps(manifest) if manifest else None, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode == 0, done.stderr

    def apply(values: dict[str, str]) -> tuple[bool, str]:
        changed = secret(tenant.name, "app", values, metadata={"finalizers": [FINALIZER]})
        return write("apply", "--server-side", "--force-conflicts", "-f", "-", manifest=changed)

    def version() -> str:
        return str(tenant.stored("app")["metadata"]["resourceVersion"])

    with ExitStack() as stack:
        stack.enter_context(row.enter(tenant))
        # The contract's second: from here on no worker goes by what was.
        time.sleep(1)
        status, body = tenant.ask("app", token)
        assert status == row.unseal and (status != 403 or row.reason in body["detail"]), body

        ok, said = write("create", "-f", "-", manifest=secret(tenant.name, "new", PLAIN))
        assert ok is row.seals and (ok or row.reason in said)
        ok, said = apply(PLAIN)
        assert ok is row.opens and version() == before["metadata"]["resourceVersion"]
        assert ok or row.reason in said
        ok, said = apply({"a": "one", "b": "changed"})
        assert ok is row.seals and (ok or row.reason in said)
        assert decoded(tenant.stored("app"))["a"] == decoded(before)["a"]

        for volatile in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
            backup["metadata"].pop(volatile, None)
        ok, said = write("create", "-f", "-", manifest=backup)
        assert ok is (row.opens or row.unseal == 410), "a restore has to open, unless nobody can open it any more"
        assert ("unverified" in said) is (row.unseal == 410)

        for change in ({"labels": {"team": "red"}}, {"ownerReferences": [OWNER]}):
            patch = f"--patch={json.dumps({'metadata': change})}"
            tenant.kubectl.run("patch", "secret", "app", "-n", tenant.name, "--type=merge", patch)
        tenant.kubectl.run("delete", "secret", "app", "-n", tenant.name, "--wait=false")
        assert tenant.stored("app")["metadata"]["deletionTimestamp"]
        no_finalizer = '--patch={"metadata": {"finalizers": null}}'
        tenant.kubectl.run("patch", "secret", "app", "-n", tenant.name, "--type=merge", no_finalizer)
        assert not write("get", "secret", "app", "-n", tenant.name)[0]
    raw = tenant.keyshred.cluster.etcd_raw(f"/registry/secrets/{tenant.name}/")
    assert not [key for key, value in raw.items() if b"changed" in value]


def test_a_new_key_that_is_not_active_yet_seals_nothing(tenant: Tenant) -> None:
    """One that was never Active."""
    name = f"{tenant.name}-later"
    tenant.kubectl.run("create", "namespace", name)
    spec = {"activationTime": "2090-01-01T00:00:00Z"}
    tenant.kubectl.apply(root_key(name, **spec), authorization(name, [name]))
    label = "--for=jsonpath={.metadata.labels.keyshred\\.dev/sealing}=enabled"
    tenant.kubectl.run("wait", label, f"namespace/{name}", "--timeout=180s")
    tenant.keyshred.webhook.wait_until(lambda: "PreActivation" in _create(tenant, name))


def _create(tenant: Tenant, namespace: str) -> str:
    manifest = json.dumps(secret(namespace, "app", PLAIN))
    return tenant.kubectl.run("create", "--dry-run=server", "-f", "-", input=manifest, check=False).stderr
