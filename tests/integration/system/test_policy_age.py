"""No policy older than a second unseals, whatever the network does to the watches."""

import itertools
import json
from collections.abc import Iterator

import pytest

from tests.cluster.keyshred import Keyshred
from tests.cluster.kubectl import write_kubeconfig
from tests.cluster.processes import Process
from tests.integration.controller.lab import until, until_equal
from tests.integration.system.proxy import Proxy
from tests.integration.system.tenant import Tenant


class Proxied(Keyshred):
    """One more webhook of the same installation, with a proxy between it and the API server."""

    def __init__(self, keyshred: Keyshred, proxy: Proxy) -> None:
        super().__init__(keyshred.cluster, keyshred.token, webhook_flags=["--workers=1"])
        self.webhook = Process("webhook-proxied", keyshred.cluster.directory)
        self.proxy = proxy

    def _command(self, name: str, *flags: str) -> list[str]:
        direct = self.cluster.service_account_kubeconfig("keyshred", f"keyshred-{name}")
        user = json.loads(direct.read_text())["users"][0]["user"]
        path = self.cluster.directory / "proxied.kubeconfig"
        write_kubeconfig(path, self.proxy.url, self.cluster.authority.certificate, user)
        return [*super()._command(name, *flags), f"--kubeconfig={path}"]


@pytest.fixture(scope="module")
def proxied(keyshred: Keyshred) -> Iterator[Proxied]:
    with Proxy(keyshred.cluster.url, keyshred.cluster.authority.certificate) as proxy:
        webhook = Proxied(keyshred, proxy)
        webhook.start_webhook()
        yield webhook
        webhook.webhook.stop()


@pytest.mark.parametrize("kind", ["rootkey", "keyauthorization"])
def test_a_watch_that_stalls(proxied: Proxied, tenant: Tenant, kind: str) -> None:
    """The second that counts is counted in the webhook's own lists: how fast this machine is does not matter."""
    tenant.create_secret("app", a="one")
    token, proxy = tenant.token(), proxied.proxy
    assert proxied.unseal(tenant.name, "app", token)[0] == 200
    proxy.stall_watches()
    try:
        before = proxy.withheld
        tenant.kubectl.run("delete", kind, tenant.name, "--wait=false")
        deleted = proxy.now()
        for number in itertools.count():
            # The second list begins when the first is worked in.
            confirmed = proxy.lists_since(deleted, f"{kind}s") >= 2
            status, body, _ = proxied.unseal(tenant.name, "app", token)
            assert status in ((403,) if confirmed else (200, 403)), body
            if confirmed:
                break
            assert number < 1000, "the policy is not confirmed any more"
        assert {proxied.unseal(tenant.name, "app", token)[0] for _ in range(10)} == {403}
        assert proxy.withheld > before, "the watch had something to say, and could not"
    finally:
        proxy.mend()


def test_a_policy_that_cannot_be_confirmed(proxied: Proxied, tenant: Tenant) -> None:
    """Watches are connected and all else is there: without the lists it refuses all the same."""
    tenant.create_secret("app", a="one")
    token, proxy = tenant.token(), proxied.proxy
    assert proxied.unseal(tenant.name, "app", token)[0] == 200
    for resource in ("keyauthorizations", "rootkeys"):
        proxy.refuse(f"/{resource}")
        try:
            until_equal(lambda: proxied.unseal(tenant.name, "app", token)[0], 503)
            answers = [proxied.unseal(tenant.name, "app", token) for _ in range(3)]
        finally:
            proxy.mend()
        for status, body, headers in answers:
            assert status == 503 and "cannot confirm its policy" in json.loads(body)["detail"]
            assert headers["Retry-After"] == "1"
        until_equal(lambda: proxied.unseal(tenant.name, "app", token)[0], 200)


def test_an_api_server_that_is_cut_off(proxied: Proxied, tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    token, proxy = tenant.token(), proxied.proxy
    assert proxied.unseal(tenant.name, "app", token)[0] == 200
    proxy.refuse("")
    try:
        for _ in range(3):
            status, body, headers = proxied.unseal(tenant.name, "app", token)
            assert status == 503 and headers["Retry-After"] == "1" and "one" not in body.decode()
        until(lambda: not proxied.is_ready())
    finally:
        proxy.mend()
    until_equal(lambda: proxied.unseal(tenant.name, "app", token)[0], 200)
