"""Worker processes: each that ends or hangs is replaced, and none outlives its parent."""

import os
import re
import signal
from pathlib import Path

from tests.cluster.keyshred import Keyshred
from tests.cluster.processes import start_time
from tests.integration.controller.lab import until
from tests.integration.system.tenant import Tenant


def test_a_worker_that_hangs_is_replaced(tenant: Tenant) -> None:
    keyshred = tenant.keyshred
    tenant.create_secret("app", a="one")
    until(lambda: len(keyshred.workers()) == 2)  # an earlier test may have ended one
    (stopped, other), parent = keyshred.workers(), keyshred.webhook.pid
    assert parent is not None
    # The parent too, meanwhile: it might replace the one that hangs before the answer is there.
    os.kill(parent, signal.SIGSTOP)
    try:
        os.kill(stopped, signal.SIGSTOP)
        assert not keyshred.is_ready(), "a connection may reach the one that hangs"
    finally:
        os.kill(parent, signal.SIGCONT)
    keyshred.webhook.wait_until(lambda: start_time(stopped) is None)
    keyshred.webhook.wait_until(keyshred.is_ready)
    assert other in keyshred.workers(), "only the one that hung"
    tenant.create_secret("later", a="two")
    assert tenant.unseal("app") == {"a": "one"}


def test_a_worker_that_keeps_ending_is_started_ever_more_slowly(keyshred: Keyshred) -> None:
    until(lambda: len(keyshred.workers()) == 2)  # an earlier test may have ended one
    seen = len(keyshred.webhook.log.read_text())
    victim = keyshred.workers()[0]
    for _ in range(2):
        others = set(keyshred.workers()) - {victim}
        os.kill(victim, signal.SIGKILL)
        (victim,) = until(lambda: set(keyshred.workers()) - others - {victim})  # noqa: B023
    first, second = map(int, re.findall(r"starting another in (\d+) s", keyshred.webhook.log.read_text()[seen:]))
    assert second > first
    keyshred.webhook.wait_until(keyshred.is_ready)


def test_workers_end_with_their_parent(keyshred: Keyshred) -> None:
    until(lambda: len(keyshred.workers()) == 2)
    parent, workers = keyshred.webhook.pid, keyshred.workers()
    assert parent is not None
    try:
        os.kill(parent, signal.SIGKILL)
        until(lambda: not any(map(start_time, workers)))
        assert not keyshred.is_ready()
    finally:
        keyshred.start_webhook()


def test_no_core_dumps(keyshred: Keyshred) -> None:
    """Of the process itself, since the limit is inherited: of all that it starts."""
    for pid in (keyshred.webhook.pid, *keyshred.workers(), keyshred.controller.pid):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.MULTILINE), limits
