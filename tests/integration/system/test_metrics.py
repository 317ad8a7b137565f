"""What Prometheus is told, by processes that count together, also when one of them was killed."""

import os
import signal
import urllib.request
from collections.abc import Iterator

import pytest

from keyshred.observe import metrics
from tests.cluster import ports
from tests.cluster.keyshred import Keyshred
from tests.integration.controller.lab import until
from tests.integration.system.tenant import Tenant

Numbers = dict[str, float]


@pytest.fixture(scope="module")
def ports_of(keyshred: Keyshred) -> Iterator[dict[str, int]]:
    """The installation, with ports for metrics."""
    found = {"webhook": ports.free(), "controller": ports.free()}
    before = (keyshred.webhook_flags, keyshred.controller_flags)
    keyshred.down()
    keyshred.webhook_flags = (*before[0], f"--metrics-port={found['webhook']}", "--metrics-listen=127.0.0.1")
    keyshred.controller_flags = (*before[1], f"--metrics-port={found['controller']}", "--metrics-listen=127.0.0.1")
    keyshred.start_webhook()
    keyshred.start_controller()
    yield found
    keyshred.down()
    keyshred.webhook_flags, keyshred.controller_flags = before
    keyshred.start_webhook()
    keyshred.start_controller()


def _scrape(port: int) -> Numbers:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def _unseals(numbers: Numbers, result: str) -> float:
    return numbers.get(f'keyshred_unseal_duration_seconds_count{{result="{result}"}}', 0)


def test_what_happens_is_counted(ports_of: dict[str, int], tenant: Tenant) -> None:
    before = _scrape(ports_of["webhook"])
    for name in ("a", "b", "c"):
        tenant.create_secret(name, a="one")
    for _ in range(4):
        assert tenant.ask("a")[0] == 200
    assert tenant.ask("a", tenant.token("stranger"))[0] == 403
    assert tenant.ask("nothing")[0] == 404
    after = _scrape(ports_of["webhook"])
    assert after["keyshred_seals_total"] - before.get("keyshred_seals_total", 0) == 3
    for result, number in (("opened", 4), ("refused", 1), ("missing", 1)):
        assert _unseals(after, result) - _unseals(before, result) == number
    admitted = 'keyshred_admission_duration_seconds_count{outcome="allowed",resource="secrets"}'
    assert after[admitted] - before.get(admitted, 0) == 3
    wraps = 'keyshred_hsm_operation_duration_seconds_count{operation="wrap",outcome="ok"}'
    assert after[wraps] - before.get(wraps, 0) == 3
    tenant.kubectl.run("patch", "rootkey", tenant.name, "--type=merge", "-p", '{"spec":{"suspended":true}}')
    suspended = f'keyshred_root_key_ready{{reason="KeySuspended",root_key="{tenant.name}"}}'
    until(lambda: _scrape(ports_of["controller"]).get(suspended) == 0)
    tenant.delete_key()
    until(lambda: suspended not in _scrape(ports_of["controller"]))
    assert tenant.ask("a")[0] == 410
    assert _unseals(_scrape(ports_of["webhook"]), "destroyed") >= 1


def test_a_worker_that_was_killed_takes_no_counts_along(
    ports_of: dict[str, int], keyshred: Keyshred, tenant: Tenant
) -> None:
    tenant.create_secret("a", a="one")
    seals = _scrape(ports_of["webhook"])["keyshred_seals_total"]
    killed = keyshred.workers()[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in keyshred.workers() and len(keyshred.workers()) == 2)
    until(lambda: _scrape(ports_of["webhook"])["keyshred_workers_ready"] == 2)
    numbers = _scrape(ports_of["webhook"])
    assert numbers["keyshred_workers"] == 2, "gauges of the dead one count no more"
    assert numbers["keyshred_seals_total"] == seals


def test_all_that_is_declared_is_there(ports_of: dict[str, int], tenant: Tenant) -> None:
    tenant.create_secret("a", a="one")
    tenant.unseal("a")
    samples = [*_scrape(ports_of["webhook"]), *_scrape(ports_of["controller"])]
    names = {sample.partition("{")[0] for sample in samples}
    assert {"keyshred_keys", "keyshred_leader", "keyshred_seals_total", "keyshred_policy_age_seconds"} <= names
    documented = {*metrics.WEBHOOK_ONLY, *metrics.BOTH}
    for name in documented:
        assert {name, f"{name}_count"} & names, name


def test_a_pod_name_or_a_secret_name_is_in_no_label(ports_of: dict[str, int], tenant: Tenant) -> None:
    tenant.create_secret("peculiar-name", a="one")
    tenant.unseal("peculiar-name")
    for port in ports_of.values():
        assert not [sample for sample in _scrape(port) if "peculiar-name" in sample]
