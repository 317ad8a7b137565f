"""What is away, is away: refused, never stored in plaintext, and back by itself."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.errors import ClusterError
from tests.cluster.keyshred import Keyshred
from tests.cluster.processes import Process
from tests.cluster.softhsm import MODULE, SoftHsm
from tests.integration.system.tenant import Tenant

PLAINTEXT = "must-never-reach-etcd"
SPY = next(Path("/usr/lib").rglob("pkcs11-spy.so"))
"""Of Debian's opensc; its folder depends on the architecture."""


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
    before = tenant.keyshred.workers()
    assert len(before) == 2
    subprocess.run(["kill", "-KILL", str(before[0])], check=True)
    tenant.create_secret("app", a="one")
    assert tenant.unseal("app") == {"a": "one"}
    tenant.keyshred.webhook.wait_until(lambda: len(set(tenant.keyshred.workers()) - {before[0]}) == 2)


def test_both_workers_seal_and_unseal(tenant: Tenant) -> None:
    """Each has a token session of its own, and opens what the other sealed."""
    token = tenant.token()
    first, second = tenant.keyshred.workers()
    with _killed(tenant.keyshred, first):
        tenant.create_secret("by-one", a="1")
        assert tenant.unseal("by-one", token) == {"a": "1"}
    with _killed(tenant.keyshred, second):
        tenant.create_secret("by-the-other", a="2")
        assert tenant.unseal("by-one", token) == {"a": "1"}
        assert tenant.unseal("by-the-other", token) == {"a": "2"}


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
    """By all workers together, those included that the parent starts later; a corrected file is taken up."""
    token = Spied.create(keyshred.cluster.directory / "wrong-pin")
    right = token.pin_file.read_text()
    token.pin_file.write_text("wrong" + right)
    other = Keyshred(keyshred.cluster, token)
    other.webhook = Process("webhook-wrong-pin", keyshred.cluster.directory)
    with pytest.raises(ClusterError, match="not ready"):
        other.start_webhook(timeout=5)
    try:
        other.webhook.wait_until(token.has_refused)
        first = other.workers()
        subprocess.run(["kill", "-KILL", *map(str, first)], check=True)
        other.webhook.wait_until(lambda: len(set(other.workers()) - set(first)) == 2)
        with pytest.raises(ClusterError, match="not ready"):
            other.webhook.wait_until(other.is_ready, timeout=5)
        assert other.webhook.pid is not None, "it waits for a person and does not crash in a loop"
        assert right not in other.webhook.log.read_text()
        assert token.logins() == ["CKR_PIN_INCORRECT"]
        token.pin_file.write_text(right)
        other.webhook.wait_until(other.is_ready)
    finally:
        other.webhook.stop()


class Spied(SoftHsm):
    """A token behind opensc's spy, which writes down each call of the module and what it answered."""

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"PKCS11SPY": str(MODULE), "PKCS11SPY_OUTPUT": str(self._log)}

    def uri_of(self, label: str) -> str:
        return super().uri_of(label).replace(str(MODULE), str(SPY))

    def logins(self) -> list[str]:
        """What each C_Login answered, in order."""
        answers = re.findall(
            r": C_Login\n(?:(?!\n\d+: C_).)*?\nReturned:\s+\d+ (\w+)", self._log.read_text(), re.DOTALL
        )
        assert answers or "C_Login" not in self._log.read_text()
        return answers

    def has_refused(self) -> bool:
        return self._log.exists() and "CKR_PIN_INCORRECT" in self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.directory / "spy.log"


@contextmanager
def _killed(keyshred: Keyshred, worker: int) -> Iterator[None]:
    """Without this worker, and with a parent that starts no other meanwhile."""
    parent = keyshred.webhook.pid
    assert parent is not None
    os.kill(parent, signal.SIGSTOP)
    try:
        os.kill(worker, signal.SIGKILL)
        yield
    finally:
        os.kill(parent, signal.SIGCONT)
    keyshred.webhook.wait_until(lambda: len(set(keyshred.workers()) - {worker}) == 2)
