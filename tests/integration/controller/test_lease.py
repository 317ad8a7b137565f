"""One active controller at a time, and how soon the next one is, by the Lease's own times."""

import os
import signal
from datetime import datetime

import pytest

from tests.cluster.processes import Process
from tests.integration.controller.lab import ACTIVE, OWN, SOON_TAKEN, Json, Lab, until, until_equal

DURATION = 15
"""Seconds: the default."""
DEFAULTS = [f"--lease-duration={DURATION}", "--hsm-deadline=3"]


@pytest.fixture
def second(running: Lab) -> Process:
    return Process("controller-2", running.cluster.directory)


def _lease(lab: Lab) -> Json:
    spec: Json = lab.get("lease", "keyshred-controller", f"--namespace={OWN}")["spec"]
    return spec


def _waits(process: Process, seen: int) -> bool:
    return "waiting for the Lease" in process.log.read_text()[seen:]


def _taken_after(lab: Lab, before: Json) -> float:
    """Waits for another holder; seconds from the last renewal of the old one."""
    until(lambda: _lease(lab)["holderIdentity"] not in ("", before["holderIdentity"]))
    now = _lease(lab)
    assert now["leaseTransitions"] == before["leaseTransitions"] + 1
    acquired, renewed = (datetime.fromisoformat(t) for t in (now["acquireTime"], before["renewTime"]))
    return (acquired - renewed).total_seconds()


def test_taken_over_at_once_after_sigterm_and_when_it_has_run_out_after_a_crash(
    running: Lab, second: Process, name: str
) -> None:
    running.start(*DEFAULTS)
    running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    try:
        running.start(*DEFAULTS, process=second)
        until(lambda: _waits(second, 0))
        running.controller.stop()
        assert _taken_after(running, _lease(running)) < DURATION, "given back, and not run out"

        seen = len(running.controller.log.read_text())
        running.start(*DEFAULTS)
        until(lambda: _waits(running.controller, seen))
        second.kill()
        # 16.5 s at the latest where the machine is idle: it is looked at each tenth of its duration.
        assert DURATION <= _taken_after(running, _lease(running)) < 2 * DURATION
    finally:
        second.stop()
    running.root_key(f"{name}-2")
    until_equal(lambda: running.ready(f"{name}-2"), ("True", "KeyActive"))


def test_one_that_stood_still_ends_and_does_nothing(running: Lab, second: Process, name: str) -> None:
    running.start(*SOON_TAKEN)
    running.root_key(f"{name}-0")
    until_equal(lambda: running.ready(f"{name}-0"), ("True", "KeyActive"))
    first = running.controller.pid
    assert first is not None
    try:
        running.start(*SOON_TAKEN, process=second)
        before = _lease(running)["holderIdentity"]
        os.kill(first, signal.SIGSTOP)
        until(lambda: _lease(running)["holderIdentity"] != before)
        holder = _lease(running)["holderIdentity"]
        os.kill(first, signal.SIGCONT)
        key_id = running.root_key(name)
        until(lambda: running.controller.pid is None)
        until_equal(lambda: running.ready(name), ("True", "KeyActive"))
        assert _lease(running)["holderIdentity"] == holder
        assert (running.actions(key_id), running.on_token(key_id)) == (ACTIVE, 1)
    finally:
        second.stop()


def test_an_api_server_away_for_longer_than_the_lease_ends_it_without_harm(running: Lab, name: str) -> None:
    running.start(*SOON_TAKEN)
    key_id = running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    seen = len(running.controller.log.read_text())
    running.cluster.stop_apiserver()
    try:
        until(lambda: running.controller.pid is None)
    finally:
        running.cluster.start_apiserver()
    assert "is lost: another controller takes over" in running.controller.log.read_text()[seen:]
    # As Kubernetes would.
    running.start()
    running.root_key(f"{name}-2")
    until_equal(lambda: running.ready(f"{name}-2"), ("True", "KeyActive"))
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    assert (running.actions(key_id), running.on_token(key_id)) == (ACTIVE, 1)
