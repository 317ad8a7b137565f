"""The webhook's certificates on a real API server: made, published, taken over, put back."""

import base64
import datetime
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from keyshred.controller import x509
from keyshred.controller.x509 import Pair
from keyshred.times import utc_now
from tests.cluster import chart
from tests.cluster.control_plane import ControlPlane
from tests.cluster.keyshred import manifests
from tests.cluster.kubectl import as_list
from tests.integration.controller.lab import OWN, Lab, until, until_equal

OVERLAP: Final = 10
FLAGS: Final = (f"--ca-overlap={OVERLAP}", "--certificate-lifetime=86400", "--ca-lifetime=864000")
HOSTS: Final = ("keyshred-webhook", "keyshred-webhook.keyshred", "keyshred-webhook.keyshred.svc")


class Site:
    """What clients and replicas see."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.kubectl = lab.kubectl

    def secret(self, name: str) -> dict[str, bytes]:
        found = self.kubectl.run("get", "secret", name, f"--namespace={OWN}", "-o", "json", check=False)
        data = json.loads(found.stdout or "{}").get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    def served(self) -> Pair:
        data = self.secret("keyshred-webhook-tls")
        return Pair(data.get("tls.crt", b""), data.get("tls.key", b""))

    def bundles(self) -> set[bytes]:
        """Of all places."""
        found = self.kubectl.run("get", "configmap", "keyshred-ca", f"--namespace={OWN}", "-o", "json", check=False)
        bundles = {json.loads(found.stdout or "{}").get("data", {}).get("ca.crt", "").encode()}
        for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
            for webhook in self.kubectl("get", kind, "keyshred")["webhooks"]:
                bundles.add(base64.b64decode(webhook["clientConfig"].get("caBundle", "")))
        return bundles

    def trusts(self, pair: Pair) -> bool:
        """Whether each place trusts it."""
        return all(bundle and any(Pair(pem).issued(pair) for pem in x509.split(bundle)) for bundle in self.bundles())

    def settled(self) -> bool:
        """One bundle everywhere, and what is served verifies under it."""
        return len(self.bundles()) == 1 and bool(self.served().certificate) and self.trusts(self.served())

    def authorities(self) -> int:
        """In the bundle; 0 while not all places have the same."""
        bundles = self.bundles()
        return len(x509.split(bundles.pop())) if len(bundles) == 1 else 0

    def cert_manager(self, authority: Pair, leaf: Pair) -> None:
        """Plays cert-manager: writes its Secret."""
        data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": authority.certificate}
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "keyshred-webhook-cert-manager", "namespace": OWN},
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        self.kubectl.apply(body)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Rights, as the chart gives them with cert-manager; webhook configurations, which nobody answers."""
    failed = request.session.testsfailed
    with ControlPlane.temporary("certificates") as cluster:
        lab = Lab(cluster)
        values = {"certificates": {"issuer": "cert-manager"}}
        lab.kubectl.apply(*chart.render(values, flags=["--show-only=templates/controller/rbac.yaml"]))
        lab.kubectl.apply(*manifests("webhooks.yaml"))
        yield Site(lab)
        if request.session.testsfailed > failed:
            print(f"\nlogs: {cluster.save_logs()}")


def _start(site: Site, mode: str, *flags: str) -> None:
    site.lab.start(f"--certificates={mode}", *FLAGS, *flags)


def test_made_once_and_kept_over_restarts(site: Site) -> None:
    _start(site, "self")
    until(site.settled)
    served = site.served()
    assert served.belongs() and x509.hosts(served.certificate) >= set(HOSTS)
    assert site.authorities() == 1
    site.lab.controller.kill()
    _start(site, "self")
    # It has looked at all of it once it brings this back.
    site.kubectl.run("delete", "configmap", "keyshred-ca", f"--namespace={OWN}")
    until(site.settled)
    assert site.served() == served


def test_what_somebody_takes_out_or_changes_comes_back(site: Site) -> None:
    (bundle,) = site.bundles()
    take = json.dumps([{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}])
    site.kubectl.run("patch", "mutatingwebhookconfiguration", "keyshred", "--type=json", "-p", take)
    site.kubectl.run("delete", "configmap", "keyshred-ca", f"--namespace={OWN}")
    until_equal(site.bundles, {bundle})
    # As Helm or kubectl apply would bring them again: theirs stay theirs, and ours comes back.
    site.kubectl.run("replace", "-f", "-", input=as_list(manifests("webhooks.yaml")))
    until_equal(site.bundles, {bundle})


def test_a_deleted_serving_secret_is_made_anew_at_once(site: Site) -> None:
    before = site.served()
    site.kubectl.run("delete", "secret", "keyshred-webhook-tls", f"--namespace={OWN}")
    until(lambda: site.served().certificate not in (b"", before.certificate))
    assert site.settled() and site.authorities() == 1


def test_a_deleted_authority_is_replaced_with_an_overlap_and_a_crash_between(site: Site) -> None:
    before = site.served()
    site.kubectl.run("delete", "secret", "keyshred-webhook-ca", f"--namespace={OWN}")
    until(lambda: len(site.bundles()) == 1 and site.authorities() == 2)
    site.lab.controller.kill()
    assert site.served() == before and site.trusts(before), "nothing is issued before all trust its authority"
    _start(site, "self")
    until(lambda: site.served().certificate != before.certificate)
    assert site.trusts(before), "a replica may serve the old one still"
    assert site.trusts(site.served())
    until(lambda: len(site.bundles()) == 1 and site.authorities() == 1)
    assert site.settled()


def test_further_hosts_bring_a_new_certificate_and_no_new_authority(site: Site) -> None:
    (bundle,) = site.bundles()
    _start(site, "self", "--certificate-hosts=unseal.example.com, 192.0.2.7")
    until(lambda: {"unseal.example.com", "192.0.2.7"} <= x509.hosts(site.served().certificate))
    assert site.bundles() == {bundle}


def test_cert_managers_certificates_are_taken_over_when_they_are_trusted(site: Site) -> None:
    before, now = site.served(), utc_now()
    year, day = datetime.timedelta(days=365), datetime.timedelta(days=1)
    first, second = x509.make_authority(year, now), x509.make_authority(year, now)
    leaf = x509.issue(first, HOSTS, day, now)
    _start(site, "cert-manager")
    site.cert_manager(first, leaf)
    until(lambda: site.trusts(leaf))
    assert site.served() == before and site.trusts(before)
    until(lambda: site.served() == leaf)
    assert site.trusts(before)
    until(lambda: not site.trusts(before))

    # One that does not fit together is left alone.
    stranger = x509.issue(second, HOSTS, day, now)
    site.cert_manager(first, stranger)
    until(lambda: "is not taken" in site.lab.controller.log.read_text())
    assert site.served() == leaf and site.trusts(leaf)

    # Authority and certificate are others at once.
    site.cert_manager(second, stranger)
    until(lambda: site.trusts(stranger))
    assert site.served() == leaf and site.trusts(leaf)
    until(lambda: site.served() == stranger)
    until(lambda: not site.trusts(leaf))
    assert site.settled()
