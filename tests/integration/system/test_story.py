"""The main job, end to end: what `make demo` shows."""

import time
from datetime import UTC, datetime

from tests.cluster import accounts
from tests.integration.system.conftest import REPEAT_SEARCH_AFTER
from tests.integration.system.tenant import AUDIENCE, STRANGER, Tenant, decoded, secret

PASSWORD = "correct-horse-battery-staple"  # a plaintext to look for


def test_a_secret_is_sealed_unsealed_and_shredded(tenant: Tenant, other: Tenant) -> None:
    tenant.create_secret("database", password=PASSWORD, user="admin-of-the-database")
    other.create_secret("database", password="another-plaintext")

    free = f"free-{tenant.name}"
    tenant.kubectl.run("create", "namespace", free)
    tenant.kubectl.create(secret(free, "comparison", {"a": "found-where-nothing-protects-it"}))
    raw = list(tenant.keyshred.cluster.etcd_raw().values())
    assert any(b"found-where-nothing-protects-it" in value for value in raw)
    assert not any(PASSWORD.encode() in value or b"admin-of-the-database" in value for value in raw)
    assert all(v.startswith(b"KSH1") for v in decoded(tenant.stored("database")).values())
    assert tenant.unseal("database") == {"password": PASSWORD, "user": "admin-of-the-database"}
    assert tenant.ask("database", tenant.token(STRANGER))[0] == 403
    assert tenant.ask("database", other.token())[0] == 403

    token, before = tenant.token(), datetime.now(UTC)
    key_id = tenant.key_id
    tenant.kubectl.run("delete", "rootkey", tenant.name, "--wait=false")
    # The contract's second, as an interval between two looks and not as how fast this machine is.
    time.sleep(1)
    status, body = tenant.ask("database", token)
    assert status in (403, 410), body
    tenant.kubectl.run("wait", "--for=delete", f"rootkey/{tenant.name}", "--timeout=180s")

    assert tenant.ask("database", token)[0] == 410
    assert other.unseal("database") == {"password": "another-plaintext"}
    names = [s["metadata"]["name"] for s in tenant.kubectl("get", "secrets", "-n", tenant.name)["items"]]
    assert "database" in names
    tenant.kubectl.run("delete", "secret", "database", "-n", tenant.name)

    record = tenant.record(key_id)
    evidence = record["evidence"]
    assert record["state"] == "Destroyed"
    assert (evidence["requestedBy"], evidence["rootKeyName"]) == ("test-admin", tenant.name)
    assert (evidence["outcome"], evidence["class"], evidence["signed"]) == ("performed", "software-logical", False)
    assert before <= datetime.fromisoformat(evidence["destroyedAt"]) <= datetime.now(UTC)
    assert all(t["signature"] == "" for t in record["transitions"])


def test_the_deletion_timestamp_alone_stops_unsealing(tenant: Tenant) -> None:
    """Also while nobody is there to destroy the key."""
    tenant.create_secret("database", password=PASSWORD)
    token, keyshred = tenant.token(), tenant.keyshred
    assert tenant.ask("database", token)[0] == 200
    keyshred.controller.stop()
    try:
        tenant.kubectl.run("delete", "rootkey", tenant.name, "--wait=false")
        time.sleep(1)
        status, body = tenant.ask("database", token)
        assert status == 403 and "PendingDestruction" in body["detail"]
        tenant.kubectl.run("label", "secret", "database", "-n", tenant.name, "team=red")
    finally:
        keyshred.start_controller()
    tenant.kubectl.run("wait", "--for=delete", f"rootkey/{tenant.name}", "--timeout=180s")
    assert tenant.ask("database", token)[0] == 410


def test_the_search_is_repeated_and_recorded(tenant: Tenant) -> None:
    key_id = tenant.delete_key()
    tenant.kubectl.run(
        "wait", "--for=jsonpath={.status.evidence.repeatSearch.objectsFound}=0", f"keyrecord/{key_id}", "--timeout=180s"
    )
    evidence = tenant.record(key_id)["evidence"]
    destroyed, repeated = (
        datetime.fromisoformat(t) for t in (evidence["destroyedAt"], evidence["repeatSearch"]["time"])
    )
    assert (repeated - destroyed).total_seconds() >= REPEAT_SEARCH_AFTER


def test_a_new_key_of_the_same_name_opens_and_grants_nothing(tenant: Tenant) -> None:
    tenant.create_secret("database", password=PASSWORD)
    first = tenant.delete_key()
    tenant.kubectl.apply({"apiVersion": "keyshred.dev/v1alpha1", "kind": "RootKey", "metadata": {"name": tenant.name}})
    tenant.kubectl.run("wait", "--for=condition=Ready", f"rootkey/{tenant.name}", "--timeout=180s")
    assert tenant.key_id != first
    assert tenant.ask("database")[0] == 410
    tenant.kubectl.run(
        *("wait", '--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=RootKeyNotFound'),
        *(f"keyauthorization/{tenant.name}", "--timeout=180s"),
    )
    done = tenant.kubectl.run(
        "create", "secret", "generic", "second", f"--namespace={tenant.name}", "--from-literal=a=b", check=False
    )
    assert "was given for an earlier key" in done.stderr


def test_a_destroyed_key_id_is_never_taken_again(tenant: Tenant) -> None:
    key_id = tenant.delete_key()
    done = tenant.kubectl.run(
        "create",
        "-f",
        "-",
        input=f"{{apiVersion: keyshred.dev/v1alpha1, kind: RootKey, metadata: {{name: again-{tenant.name}}}, "
        f"spec: {{origin: Adopted, keyID: {key_id}}}}}",
        check=False,
    )
    assert done.returncode != 0 and "is destroyed" in done.stderr


def test_a_pod_reads_what_it_refers_to(tenant: Tenant) -> None:
    """Bound to a living pod that names the Secret, a token needs no entry of its own."""
    tenant.create_secret("mine", a="1")
    tenant.create_secret("not-mine", a="2")
    tenant.kubectl.run(
        *("patch", "keyauthorization", tenant.name, "--type=json"),
        '--patch=[{"op": "remove", "path": "/spec/subjects"}]',
    )
    tenant.create_pod("reader", "mine", account=STRANGER)
    bound = accounts.token(tenant.kubectl, tenant.name, STRANGER, audience=AUDIENCE, pod="reader")
    assert tenant.unseal("mine", bound) == {"a": "1"}
    assert tenant.ask("not-mine", bound)[0] == 403
    assert tenant.ask("mine", tenant.token(STRANGER))[0] == 403
    tenant.kubectl.run("delete", "pod", "reader", "-n", tenant.name, "--force")
    assert tenant.ask("mine", bound)[0] in (401, 403)
