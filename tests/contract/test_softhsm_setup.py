"""The evaluation mode's token, made by SoftHSM's own tool."""

import subprocess
import sys
from pathlib import Path

import pytest

from keyshred.errors import ConfigInvalid
from keyshred.hsm import softhsm_setup
from tests.cluster.paths import REPOSITORY
from tests.cluster.softhsm import MODULE

_LOOK = """
import sys
from pathlib import Path
from keyshred.hsm import softhsm_setup
print([softhsm_setup.serial_of(Path(sys.argv[1]), "keyshred", Path(sys.argv[2])) for _ in range(2)])
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    file = tmp_path / "softhsm2.conf"
    file.write_text(f"directories.tokendir = {tmp_path}/home/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    return file


def _look(conf: Path) -> str:
    """In a process of its own: a module stays loaded, with the configuration that it found."""
    env = {"SOFTHSM2_CONF": str(conf), "PYTHONPATH": str(REPOSITORY / "operator")}
    command = [sys.executable, "-c", _LOOK, str(conf.parent / "home/tokens"), str(MODULE)]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()


def test_a_token_is_made_with_the_pins_given_and_found_again(conf: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "home/tokens"
    assert _look(conf) == "[None, None]"
    softhsm_setup.make(tokens, "keyshred", "user-pin-1", "so-pin-2")
    serial = next(tokens.iterdir()).name.replace("-", "")[-16:]
    assert _look(conf) == f"['{serial}', '{serial}']"
    for pin, works in (("user-pin-1", True), ("so-pin-2", False)):
        tried = subprocess.run(
            ["pkcs11-tool", "--module", str(MODULE), "--login", "--pin", pin, "--list-objects"],
            env={"SOFTHSM2_CONF": str(conf)},
            capture_output=True,
        )
        assert (tried.returncode == 0) is works
    assert not [path for path in tokens.parent.iterdir() if path != tokens], "nothing is left beside it"


def test_the_pins_are_in_no_command_line(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    tool = tmp_path / "bin" / "softhsm2-util"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" > {seen}; env >> {seen}\nexec /usr/bin/softhsm2-util "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    softhsm_setup.make(tmp_path / "home/tokens", "keyshred", "user-pin-1", "so-pin-2")
    assert "--init-token" in seen.read_text()
    assert "-pin-" not in seen.read_text()


def test_a_tool_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="ended with"):
        softhsm_setup.make(tmp_path / "home/tokens", "k" * 40, "user-pin-1", "so-pin-2")
    assert not list((tmp_path / "home/tokens").iterdir())
