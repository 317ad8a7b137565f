"""The evaluation mode's token, made by SoftHSM's own tool."""

import subprocess
from pathlib import Path

import pytest

from keyshred.errors import ConfigInvalid, TokenBroken
from keyshred.hsm import softhsm_setup
from tests.cluster.softhsm import MODULE


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    file = tmp_path / "softhsm2.conf"
    file.write_text(f"directories.tokendir = {tmp_path}/home/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    return file


def test_a_token_is_made_with_the_pins_given_and_found_again(conf: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "home/tokens"
    assert softhsm_setup.serial_of(tokens, "keyshred") is None
    softhsm_setup.make(tokens, "keyshred", "user-pin-1", "so-pin-2")
    serial = next(tokens.iterdir()).name.replace("-", "")[-16:]
    assert softhsm_setup.serial_of(tokens, "keyshred") == serial
    assert softhsm_setup.serial_of(tokens, "another") is None
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


def test_two_tokens_of_one_label_are_for_a_person_to_sort_out(tmp_path: Path) -> None:
    tokens = tmp_path / "home/tokens"
    for _ in range(2):
        softhsm_setup.make(tokens, "keyshred", "user-pin-1", "so-pin-2")
    with pytest.raises(TokenBroken, match="2 tokens"):
        softhsm_setup.serial_of(tokens, "keyshred")


def test_what_is_set_aside_is_kept(tmp_path: Path) -> None:
    tokens = tmp_path / "home/tokens"
    for number in (1, 2):
        softhsm_setup.make(tokens, "keyshred", "user-pin-1", "so-pin-2")
        assert softhsm_setup.set_aside(tokens) == tmp_path / f"home/tokens.before-{number}"
        assert softhsm_setup.serial_of(tokens, "keyshred") is None
    assert softhsm_setup.serial_of(tmp_path / "home/tokens.before-1", "keyshred")
