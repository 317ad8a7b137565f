"""The process itself: the Lease, and an API server that comes and goes."""

import time

from tests.cluster.processes import Process
from tests.integration.controller.lab import Lab, until, until_equal


def test_the_api_server_may_be_away(lab: Lab, name: str) -> None:
    lab.controller.stop()
    lab.start("--lease-duration=30")
    lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    pid = lab.controller.pid
    lab.cluster.stop_apiserver()
    time.sleep(2)
    lab.cluster.start_apiserver()
    lab.root_key(f"{name}-2")
    until_equal(lambda: lab.ready(f"{name}-2"), ("True", "KeyActive"))
    assert lab.controller.pid == pid


def test_two_controllers_take_turns(lab: Lab, name: str) -> None:
    second = Process("controller-2", lab.cluster.directory)
    lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.start(process=second)
    until(lambda: "waiting for the Lease" in second.log.read_text())
    lab.controller.kill()
    lab.root_key(f"{name}-2")
    until_equal(lambda: lab.ready(f"{name}-2"), ("True", "KeyActive"))
    second.stop()
