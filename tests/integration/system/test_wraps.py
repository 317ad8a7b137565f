"""Wraps under a key version are counted in its KeyRecord."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from keyshred.errors import KeyNotUsable
from keyshred.hsm.interface import KeyRef
from keyshred.kube.client import Kube
from keyshred.policy.ledger import check_chain
from keyshred.policy.wraps import BLOCK, MOST, ROTATION_DUE
from keyshred.webhook.wraps import Wraps
from tests.integration.system.tenant import Tenant, secret

WEBHOOK = "--as=system:serviceaccount:keyshred:keyshred-webhook"


def _reserved(tenant: Tenant) -> int:
    return int(tenant.record(tenant.key_id)["versions"][0].get("wrapsReserved", 0))


def _set(tenant: Tenant, reserved: int) -> None:
    record = tenant.kubectl("get", "keyrecord", tenant.key_id)
    record["status"]["versions"][0]["wrapsReserved"] = reserved
    tenant.kubectl.run("replace", "--subresource=status", WEBHOOK, "-f", "-", input=json.dumps(record))


def _create(tenant: Tenant, name: str, *flags: str) -> tuple[int, str]:
    manifest = json.dumps(secret(tenant.name, name, {"a": "one"}))
    done = tenant.kubectl.run("create", *flags, "-f", "-", input=manifest, check=False)
    return done.returncode, done.stderr


def test_one_block_for_each_worker_and_no_more(tenant: Tenant) -> None:
    """Dry runs are counted; comparing and reading wrap nothing."""
    before = tenant.record(tenant.key_id)
    assert _reserved(tenant) == 0
    assert _create(tenant, "app", "--dry-run=server") == (0, "")
    assert _reserved(tenant) == BLOCK
    for number in range(6):
        assert _create(tenant, f"app-{number}") == (0, "")
    assert _reserved(tenant) in (BLOCK, 2 * BLOCK)
    after = tenant.record(tenant.key_id)
    for status in (before, after):
        status["versions"][0].pop("wrapsReserved", None)
    assert after == before, "the ledger has no entry for it, and nothing else has changed"


def test_a_rotation_is_called_for_and_in_the_end_nothing_is_sealed(tenant: Tenant) -> None:
    _set(tenant, ROTATION_DUE - BLOCK)
    code, said = _create(tenant, "app")
    assert code == 0 and f"RootKey {tenant.name} has wrapped 2^30 data keys or more under its version 1" in said
    _set(tenant, MOST)
    # What its workers have reserved they may still use; nobody gets more.
    tenant.keyshred.webhook.stop()
    tenant.keyshred.start_webhook()
    code, said = _create(tenant, "more")
    assert code != 0 and f"RootKey {tenant.name} has wrapped 2^31 data keys under its version 1" in said
    assert tenant.unseal("app") == {"a": "one"}
    tenant.kubectl.run("label", "secret", "app", "-n", tenant.name, "team=red")
    # And the end of the key is as of any other.
    key_id = tenant.delete_key()
    assert (
        tenant.record(key_id)["state"] == "Destroyed" and tenant.record(key_id)["versions"][0]["wrapsReserved"] == MOST
    )


def test_a_count_never_falls(tenant: Tenant) -> None:
    _set(tenant, 2 * BLOCK)
    record = tenant.kubectl("get", "keyrecord", tenant.key_id)
    for version in ({"wrapsReserved": BLOCK}, {}):
        changed = [{k: v for k, v in record["status"]["versions"][0].items() if k != "wrapsReserved"} | version]
        body = record | {"status": record["status"] | {"versions": changed}}
        done = tenant.kubectl.run(
            "replace", "--subresource=status", WEBHOOK, "-f", "-", input=json.dumps(body), check=False
        )
        assert "wrapsReserved only grows" in done.stderr


def test_counting_and_the_controller_write_the_same_record(tenant: Tenant) -> None:
    """A worker that seals far more than any: the ledger stays whole, no count is lost, and the key still ends."""
    key_id = tenant.key_id
    with _counting(tenant) as counted:
        for suspended, state in (("true", "Suspended"), ("false", "Active")):
            patch = f'--patch={{"spec": {{"suspended": {suspended}}}}}'
            tenant.kubectl.run("patch", "rootkey", tenant.name, "--type=merge", patch)
            wait = f"--for=jsonpath={{.status.state}}={state}"
            tenant.kubectl.run("wait", wait, f"rootkey/{tenant.name}", "--timeout=180s")
        tenant.kubectl.run("delete", "rootkey", tenant.name, "--timeout=180s")
    status = tenant.record(key_id)
    check_chain(status["transitions"])
    assert status["state"] == "Destroyed"
    assert len(counted) > 1 and status["versions"][0]["wrapsReserved"] == len(counted) * BLOCK


@contextmanager
def _counting(tenant: Tenant) -> Iterator[list[None]]:
    """Reserves block after block, with the webhook's own rights, until the key may not be used any more."""
    kubeconfig = str(tenant.keyshred.cluster.service_account_kubeconfig("keyshred", "keyshred-webhook"))
    ref, done, stop = KeyRef(UUID(tenant.key_id), 1), list[None](), threading.Event()

    async def count() -> None:
        kube = await Kube.connect(kubeconfig)
        try:
            while not stop.is_set():
                await Wraps(kube).take(ref, tenant.name)
                done.append(None)
                await asyncio.sleep(0.05)  # as if it sealed a million Secrets a second
        except KeyNotUsable:
            pass
        finally:
            await kube.close()

    thread = threading.Thread(target=asyncio.run, args=(count(),))
    thread.start()
    try:
        yield done
        thread.join(60)
        assert not thread.is_alive()
    finally:
        stop.set()
        thread.join()
