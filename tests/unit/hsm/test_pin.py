"""The PIN file and the memory of refused PINs."""

import logging
from pathlib import Path

import pytest

from keyshred.errors import ConfigInvalid, PinRefused
from keyshred.hsm.pin import PinFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return _pin(tmp_path / "pin", b"1234")


def _pin(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def _refuse(pin_file: PinFile) -> None:
    with pytest.raises(PinRefused, match="by the token"), pin_file.offer():
        raise PinRefused("by the token")


@pytest.mark.parametrize("content", [b"1234", b"1234\n", b"1234\r\n"])
def test_one_line_end_is_not_part_of_the_pin(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with PinFile(file).offer() as pin:
        assert pin == "1234"


def test_spaces_are_part_of_the_pin(file: Path) -> None:
    file.write_bytes(b" 12 34 \n\n")
    with PinFile(file).offer() as pin:
        assert pin == " 12 34 \n"


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 256, b"x" * 4096, b"\xff\xfe"])
def test_a_file_that_is_no_pin_is_refused_without_showing_it(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigInvalid) as caught, PinFile(file).offer():
        pass
    assert "xxx" not in str(caught.value)


def test_the_longest_pin_is_accepted(file: Path) -> None:
    file.write_bytes(b"x" * 255 + b"\n")
    with PinFile(file).offer() as pin:
        assert len(pin) == 255


def test_a_file_that_everybody_may_write_is_refused(file: Path) -> None:
    file.chmod(0o602)
    with pytest.raises(ConfigInvalid, match="may write"), PinFile(file).offer():
        pass


def test_a_file_that_everybody_may_read_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.chmod(0o644)
    pin_file = PinFile(file)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pin_file.offer():
                pass
    assert [("may read" in record.getMessage(), "1234" in record.getMessage()) for record in caplog.records] == [
        (True, False)
    ]


def test_a_refused_pin_is_not_offered_again_until_the_file_changes(file: Path) -> None:
    pin_file = PinFile(file)
    _refuse(pin_file)
    for content in (b"1234", b"1234\n"):
        file.write_bytes(content)
        with pytest.raises(PinRefused, match="before"), pin_file.offer():
            pytest.fail("a refused PIN was offered again")
    file.write_bytes(b"5678")
    with pin_file.offer() as pin:
        assert pin == "5678"


def test_another_failure_than_a_refusal_is_not_held_against_the_pin(file: Path) -> None:
    pin_file = PinFile(file)
    with pytest.raises(RuntimeError), pin_file.offer():
        raise RuntimeError
    with pin_file.offer() as pin:
        assert pin == "1234"


def test_processes_that_share_the_memory_learn_from_each_other(file: Path, tmp_path: Path) -> None:
    refused = tmp_path / "refused"
    _refuse(PinFile(file, refused))

    with pytest.raises(PinRefused, match="before"), PinFile(file, refused).offer():
        pytest.fail("a refused PIN was offered again")
    assert b"1234" not in refused.read_bytes()
    assert refused.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"5678")
    with PinFile(file, refused).offer() as pin:
        assert pin == "5678"


def test_without_shared_memory_another_process_does_not_know(file: Path) -> None:
    _refuse(PinFile(file))
    with PinFile(file).offer() as pin:
        assert pin == "1234"


def test_a_memory_that_cannot_be_written_is_found_before_the_pin_is_offered(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="refused PINs"), PinFile(file, tmp_path / "none" / "refused").offer():
        pytest.fail("the PIN was offered")
