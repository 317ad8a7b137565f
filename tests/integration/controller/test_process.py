"""The process itself: the Lease, and an API server that comes and goes."""

import os
import signal
from pathlib import Path

from tests.cluster.processes import Process
from tests.integration.controller.lab import OWN, SOON_TAKEN, Lab, until, until_equal


def test_the_api_server_may_be_away(lab: Lab, name: str) -> None:
    lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    pid = lab.controller.pid
    seen = len(lab.controller.log.read_text())
    lab.cluster.stop_apiserver()
    try:
        until(lambda: "KubeUnavailable" in lab.controller.log.read_text()[seen:])
    finally:
        lab.cluster.start_apiserver()
    lab.root_key(f"{name}-2")
    until_equal(lambda: lab.ready(f"{name}-2"), ("True", "KeyActive"))
    assert lab.controller.pid == pid


def test_two_controllers_take_turns(running: Lab, name: str) -> None:
    second = Process("controller-2", running.cluster.directory)
    running.start(*SOON_TAKEN)
    running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    running.start(*SOON_TAKEN, process=second)
    try:
        until(lambda: "waiting for the Lease" in second.log.read_text())
        running.controller.kill()
        running.root_key(f"{name}-2")
        until_equal(lambda: running.ready(f"{name}-2"), ("True", "KeyActive"))
    finally:
        second.stop()


def test_crds_that_come_back_are_watched_again(running: Lab, name: str) -> None:
    # Without a resync only the watch can tell the controller.
    running.start("--resync=3600")
    key_id = running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    open_files = []
    for _ in range(4):
        running.kubectl.run(
            "delete", "crd", "rootkeys.keyshred.dev", "keyauthorizations.keyshred.dev", "--timeout=180s"
        )
        until_equal(lambda: running.actions(key_id)[-1], "Kept")
        running.install_crds()
        _is_watched(running, name, key_id)
        open_files.append(len(list(Path(f"/proc/{running.controller.pid}/fd").iterdir())))
    # An event loop is three files, each of its watches one more.
    assert max(open_files) < open_files[0] + 6, open_files


def test_crds_that_come_after_it_are_watched(running: Lab, name: str) -> None:
    running.start()
    key_id = running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    running.kubectl.run("delete", "crd", "rootkeys.keyshred.dev", "keyauthorizations.keyshred.dev", "--timeout=180s")
    seen = len(running.controller.log.read_text())
    running.start("--resync=3600")
    until(lambda: "Unresolved resources" in running.controller.log.read_text()[seen:])
    running.install_crds()
    _is_watched(running, name, key_id)


def _is_watched(running: Lab, name: str, key_id: str) -> None:
    until(lambda: running.serves("rootkeys", "keyauthorizations"))
    running.root_key(name, keyID=key_id, origin="Adopted")
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    running.authorize(name, {"rootKeyRef": {"name": name}, "namespaces": {"names": ["default"]}})
    until_equal(lambda: running.ready(name, "keyauthorization"), ("True", "Authorized"))


def test_sigterm_ends_it_at_once(running: Lab, name: str) -> None:
    running.start()
    running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    pid = running.controller.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    until(lambda: running.controller.pid is None)
    # It gave the Lease back: it was not killed, and it did not break.
    assert running.get("lease", "keyshred-controller", f"--namespace={OWN}")["spec"]["holderIdentity"] == ""
