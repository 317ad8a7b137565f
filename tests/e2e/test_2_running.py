"""Updates, lost pods and rotated certificates under a stream of Secrets: nobody notices."""

import base64
import re
import shutil
import time
from pathlib import Path
from typing import Any

from tests.cluster import release
from tests.cluster.chart import CHART, NAMESPACE
from tests.cluster.node import Node, until
from tests.e2e.installed import CONTROLLER, WEBHOOK, Installed, dumped
from tests.integration.controller.lab import until as soon
from tests.integration.system.stream import Stream
from tests.integration.system.tenant import Tenant

ROTATING = {
    "certificates": {"lifetime": 60, "caLifetime": 180},
    "controller": {"extraArgs": ["--ca-overlap=10", "--certificate-hosts=unseal.example.com"]},
}


def _goes_on(stream: Stream) -> None:
    before = stream.rounds
    soon(lambda: stream.rounds > before + 10)


def test_an_update_of_everything_under_a_stream(
    node: Node, installed: Installed, tenant: Tenant, tmp_path: Path
) -> None:
    """From an older chart to this one, to other values, and back: all pods are replaced each time."""
    older = _older_chart(tmp_path)
    many = {"logLevel": "WARNING", "webhook": {"workers": 1, "replicas": 3}, "controller": {"replicas": 2}}
    updates: list[tuple[Path, dict[str, Any]]] = [(older, {}), (CHART, many), (CHART, {})]
    with Stream(tenant).running() as stream:
        for chart, values in updates:
            _goes_on(stream)
            pods = {pod["metadata"]["uid"] for pod in installed.pods(WEBHOOK) + installed.pods(CONTROLLER)}
            release.install(node, values, chart=chart)
            installed.wait_rolled_out()
            assert not pods & {pod["metadata"]["uid"] for pod in installed.pods(WEBHOOK)}
            described = installed.kubectl("get", "crd", "rootkeys.keyshred.dev")
            assert (_OLD in dumped(described)) is (chart is older), "CRDs go with the chart"
        _goes_on(stream)
    assert stream.failures == []
    stream.check()


_OLD = "as it was described before"


def _older_chart(folder: Path) -> Path:
    """This chart as an earlier version may have been: another version, CRDs, labels of pods."""
    older = folder / "keyshred"
    shutil.copytree(CHART, older)
    described = older / "Chart.yaml"
    described.write_text(described.read_text().replace("\nversion: ", "\nversion: 0.0.1-before-"))
    crd = older / "templates" / "crds" / "rootkeys.yaml"
    changed = re.sub(r"description: \w+", f"description: {_OLD}", crd.read_text(), count=1)
    assert _OLD in changed
    crd.write_text(changed)
    return older


def test_pods_that_are_deleted_under_a_stream(installed: Installed, tenant: Tenant) -> None:
    with Stream(tenant).running() as stream:
        for component, number in ((WEBHOOK, 2), (WEBHOOK, 2), (CONTROLLER, 1)):
            _goes_on(stream)
            name = installed.pods(component)[0]["metadata"]["name"]
            installed.kubectl.run("delete", "pod", name, f"--namespace={NAMESPACE}")
            installed.wait_running(component, number)
        _goes_on(stream)
    assert stream.failures == []
    stream.check()
    # The new controller leads.
    Tenant.create_with_key_first(installed).create_secret("db", a="one")


def test_a_webhook_that_is_killed_loses_nothing(installed: Installed, tenant: Tenant) -> None:
    """SIGKILL: what was under way may fail, and nothing is stored in plaintext."""
    with Stream(tenant).running() as stream:
        _goes_on(stream)
        name = installed.pods(WEBHOOK)[0]["metadata"]["name"]
        installed.kubectl.run("delete", "pod", name, f"--namespace={NAMESPACE}", "--grace-period=0", "--force")
        installed.wait_running(WEBHOOK, 2)
        _goes_on(stream)
    stream.check()


def test_certificates_and_authority_rotate_under_a_stream(node: Node, installed: Installed, tenant: Tenant) -> None:
    """With lifetimes of a minute and three: the serving certificate twice, and its authority once."""
    release.install(node, ROTATING)
    installed.wait_rolled_out()
    pods = {pod["metadata"]["uid"] for pod in installed.pods(WEBHOOK)}
    until("short-lived certificates", lambda: _authorities(installed) != set() and _short(installed))
    first, seen = _authorities(installed), set[bytes]()
    with Stream(tenant).running() as stream:
        deadline = time.monotonic() + 240
        while _authorities(installed) & first or len(seen) < 3:
            seen.add(installed.secret("keyshred-webhook-tls")["tls.crt"])
            assert time.monotonic() < deadline, f"{len(seen)} certificates, and the first authority is still there"
            time.sleep(1)
        _goes_on(stream)
    assert stream.failures == []
    stream.check()
    assert {pod["metadata"]["uid"] for pod in installed.pods(WEBHOOK)} == pods
    # Back to what others expect; with an overlap that these tests can wait for.
    release.install(node, {"controller": {"extraArgs": ["--ca-overlap=10"]}})
    expiry = "keyshred_certificate_expiry_timestamp_seconds"
    until("long-lived certificates", lambda: installed.numbers(WEBHOOK)[expiry] > time.time() + 80 * 86400)
    release.install(node)
    installed.wait_rolled_out()


def _authorities(installed: Installed) -> set[str]:
    text = installed.kubectl("get", "configmap", "keyshred-ca", f"--namespace={NAMESPACE}")["data"]["ca.crt"]
    return set(text.split("-----END CERTIFICATE-----\n")) - {""}


def _short(installed: Installed) -> bool:
    webhooks = installed.kubectl("get", "mutatingwebhookconfiguration", "keyshred")["webhooks"]
    bundle = base64.b64decode(webhooks[0]["clientConfig"]["caBundle"]).decode()
    expiry = "keyshred_certificate_expiry_timestamp_seconds"
    return set(bundle.split("-----END CERTIFICATE-----\n")) - {""} == _authorities(installed) and (
        installed.numbers(WEBHOOK)[expiry] < time.time() + 120
    )
