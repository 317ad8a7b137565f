"""Another token by accident: no key is made in it, and the RootKeys say why."""

import json
from pathlib import Path

import pytest

from tests.cluster.paths import REPOSITORY
from tests.cluster.softhsm import SoftHsm
from tests.integration.controller.lab import OWN, Lab, until, until_equal

FLAGS = ("--token-record=keyshred-token", "--mode=production")


@pytest.fixture
def recorded(lab: Lab) -> Lab:
    """A controller that remembers its token."""
    lab.start(*FLAGS)
    return lab


def _record(lab: Lab) -> dict[str, str]:
    found = lab.kubectl.run("get", "configmap", "keyshred-token", f"--namespace={OWN}", "-o", "json", check=False)
    data: dict[str, str] = json.loads(found.stdout or "{}").get("data", {})
    return data


def test_the_first_key_says_which_token_it_is(recorded: Lab, name: str) -> None:
    recorded.root_key(name)
    until_equal(lambda: recorded.ready(name), ("True", "KeyActive"))
    data = _record(recorded)
    assert (data["label"], data["mode"]) == ("keyshred", "production") and data["serial"]


def test_in_another_token_nothing_is_made(recorded: Lab, name: str, tmp_path: Path) -> None:
    recorded.root_key(name)
    until_equal(lambda: recorded.ready(name), ("True", "KeyActive"))
    before = _record(recorded)
    other = SoftHsm.create(tmp_path / "other")  # with the same label, as an empty volume would bring it
    recorded.start(*FLAGS, hsm=other)
    recorded.root_key(f"{name}-new")
    until_equal(lambda: recorded.ready(f"{name}-new"), ("False", "TokenMismatch"))
    assert "docs/install.md" in recorded.message(f"{name}-new")
    assert not [f for f in (tmp_path / "other" / "tokens").glob("*/*.object") if f.name != "token.object"]
    assert _record(recorded) == before
    recorded.start(*FLAGS)
    until_equal(lambda: recorded.ready(f"{name}-new"), ("True", "KeyActive"))


def test_a_uri_that_names_another_serial_ends_the_process_and_says_what_to_do(recorded: Lab, name: str) -> None:
    recorded.root_key(name)
    until_equal(lambda: recorded.ready(name), ("True", "KeyActive"))
    token = recorded.hsm.uri.replace("pkcs11:token=keyshred", "pkcs11:token=keyshred;serial=0000000000000000")
    command = [*recorded._command, *FLAGS, f"--token-uri={token}"]
    recorded.controller.start(command, {"PYTHONPATH": str(REPOSITORY / "operator")} | recorded.hsm.env)
    until(lambda: recorded.controller.pid is None)
    assert "delete the ConfigMap keyshred/keyshred-token" in recorded.controller.log.read_text()
    recorded.kubectl.run("delete", "configmap", "keyshred-token", f"--namespace={OWN}")
