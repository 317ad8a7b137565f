"""What is away, is away: refused, never stored in plaintext, and back by itself."""

import subprocess
import sys

import pytest

from keyshred.hsm.uri import parse
from tests.cluster.errors import ClusterError
from tests.cluster.keyshred import Keyshred
from tests.cluster.processes import Process
from tests.cluster.softhsm import SoftHsm
from tests.integration.system.tenant import Tenant

PLAINTEXT = "must-never-reach-etcd"


def _create(tenant: Tenant, name: str, namespace: str | None = None) -> "subprocess.CompletedProcess[str]":
    literal = f"--from-literal=a={PLAINTEXT}"
    where = f"--namespace={namespace or tenant.name}"
    return tenant.kubectl.run("create", "secret", "generic", name, where, literal, check=False)


def _assert_not_in_etcd(tenant: Tenant) -> None:
    """No value of any key of a sealing namespace holds the plaintext."""
    stored = tenant.keyshred.cluster.etcd_raw(f"/registry/secrets/{tenant.name}/")
    assert not [key for key, value in stored.items() if PLAINTEXT.encode() in value]


def test_webhook_killed(tenant: Tenant) -> None:
    """Creates are refused, nothing is stored in plaintext, other namespaces are free."""
    keyshred = tenant.keyshred
    tenant.create_secret("before", a="one")
    free = f"free-{tenant.name}"
    tenant.kubectl.run("create", "namespace", free)
    keyshred.webhook.kill()
    try:
        refused = _create(tenant, "during")
        assert refused.returncode != 0 and "secrets.keyshred.dev" in refused.stderr
        assert _create(tenant, "elsewhere", free).returncode == 0
        tenant.kubectl.run("delete", "secret", "before", f"--namespace={tenant.name}")
        assert tenant.kubectl.run("delete", "rootkey", tenant.name, "--wait=false", check=False).returncode != 0
    finally:
        keyshred.start_webhook()
    _assert_not_in_etcd(tenant)
    assert _create(tenant, "after").returncode == 0
    assert tenant.unseal("after") == {"a": PLAINTEXT}


def test_one_of_two_workers_killed(tenant: Tenant) -> None:
    """The other serves on, and the parent starts a new one."""
    before = _workers(tenant.keyshred)
    assert len(before) == 2
    subprocess.run(["kill", "-KILL", str(before[0])], check=True)
    tenant.create_secret("app", a="one")
    assert tenant.unseal("app") == {"a": "one"}
    tenant.keyshred.webhook.wait_until(lambda: len(set(_workers(tenant.keyshred)) - {before[0]}) == 2)


def test_both_workers_seal_and_unseal(tenant: Tenant) -> None:
    """Each has a token session of its own; what one seals the other opens."""
    for i in range(16):
        tenant.create_secret(f"app-{i}", a=str(i))
    token = tenant.token()
    assert [tenant.unseal(f"app-{i}", token) for i in range(16)] == [{"a": str(i)} for i in range(16)]


def test_token_taken_away_and_given_back(tenant: Tenant) -> None:
    tenant.create_secret("before", a="one")
    token = tenant.token()
    tenant.keyshred.token.take_away()
    try:
        refused = _create(tenant, "during")
        assert refused.returncode != 0 and "Traceback" not in refused.stderr
        status, body = tenant.ask("before", token)
        assert status == 503, body
        assert not tenant.keyshred.is_ready()
        tenant.kubectl.run("label", "secret", "before", f"--namespace={tenant.name}", "team=red")
    finally:
        tenant.keyshred.token.give_back()
    _assert_not_in_etcd(tenant)
    tenant.keyshred.webhook.wait_until(tenant.keyshred.is_ready)
    assert tenant.unseal("before", token) == {"a": "one"}
    assert _create(tenant, "after").returncode == 0
    assert tenant.kubectl("get", "rootkey", tenant.name)["status"]["state"] == "Active"


def test_a_wrong_pin_is_tried_once(keyshred: Keyshred) -> None:
    """By two workers and a parent that starts them again: the token counts one failure, and is not locked."""
    token = SoftHsm.create(keyshred.cluster.directory / "wrong-pin")
    right = token.pin_file.read_text()
    token.pin_file.write_text("wrong" + right)
    other = Keyshred(keyshred.cluster, token, webhook_flags=[f"--refused-pin-file={token.directory}/refused"])
    other.webhook = Process("webhook-wrong-pin", keyshred.cluster.directory)
    with pytest.raises(ClusterError, match="not ready"):
        other.start_webhook(timeout=8)
    try:
        assert other.webhook.pid is not None, "it waits for a person and does not crash in a loop"
        assert right not in other.webhook.log.read_text()
        assert _flags(token) == {"user PIN low"}, "exactly one wrong try"
        token.pin_file.write_text(right)
        other.webhook.wait_until(other.is_ready)
    finally:
        other.webhook.stop()


def _flags(token: SoftHsm) -> set[str]:
    """What the token says of its user PIN, by a process of its own."""
    script = (
        "import sys, pkcs11; lib = pkcs11.lib(sys.argv[1]); "
        "flags = [t for t in lib.get_tokens() if t.label == sys.argv[2]][0].flags; print(int(flags))"
    )
    uri = parse(token.uri)
    out = subprocess.run(
        [sys.executable, "-c", script, str(uri.module_path), token.label],
        env={"SOFTHSM2_CONF": str(token.conf)},
        check=True,
        capture_output=True,
        text=True,
    )
    names = {0x00010000: "user PIN low", 0x00020000: "user PIN final try", 0x00040000: "user PIN locked"}
    return {name for bit, name in names.items() if int(out.stdout) & bit}


def _workers(keyshred: Keyshred) -> list[int]:
    """Pids of the webhook's worker processes."""
    children = subprocess.run(
        ["pgrep", "-P", str(keyshred.webhook.pid), "-f", "spawn_main"], capture_output=True, text=True
    )
    return [int(pid) for pid in children.stdout.split()]
