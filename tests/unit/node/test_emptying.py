"""Values that must go now, and volumes that their pod can write into."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keyshred.node.atomic_writer import empty, write
from keyshred.node.payload import File
from tests.unit.node import DAC_OVERRIDE, A, B, check_scheme, clear, may, shown, states

as_root = pytest.mark.skipif(not may(DAC_OVERRIDE), reason="needs CAP_DAC_OVERRIDE, as the node plugin has it")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (made := tmp_path / "mount").mkdir()
    made.chmod(0o1777)
    return made


def test_what_is_cleared_is_empty_for_who_has_it_open(volume: Path) -> None:
    write(volume, A, None)
    # An open file is to the inode what a bind mount is.
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context((volume / path).open("rb", buffering=0)) for path in A]
        clear(volume)
        assert [file.read() for file in opened] == [b""] * len(opened)
    check_scheme(volume, {})
    clear(volume)
    check_scheme(volume, {})


@as_root
def test_modes_keep_nothing_from_being_cleared(volume: Path) -> None:
    write(volume, {"locked": File(b"1", 0), "read-only": File(b"2", 0o444)}, None)
    empty(volume, {})
    assert [file.data for file in shown(volume).values()] == [b"", b""]


def test_only_what_is_not_kept_is_emptied(volume: Path) -> None:
    write(volume, A, None)
    before = states(volume)
    empty(volume, {"user": A["user"], "tls/key": File(b"another's", 0o400)})
    assert states(volume) == before
    assert {path: file.data for path, file in shown(volume).items()} == {
        "user": b"admin",
        "tls/key": b"",
        "tls/crt": b"",
    }
    # What was emptied is no longer what was written.
    assert write(volume, A, None)
    check_scheme(volume, A)


def test_what_is_kept_is_known_by_its_clean_path(volume: Path) -> None:
    write(volume, A, None)
    empty(volume, {f".//{path.replace('/', '//')}": file for path, file in A.items()})
    check_scheme(volume, A)


def test_what_a_crash_left_is_emptied_too(volume: Path) -> None:
    write(volume, A, None)
    (left := volume / "..2020_01_01_00_00_00.123456789").mkdir()
    (left / "user").write_bytes(b"former")
    with (left / "user").open("rb", buffering=0) as opened:
        empty(volume, {})
        assert opened.read() == b""


def test_a_volume_that_was_never_written_can_be_cleared(volume: Path) -> None:
    clear(volume)
    check_scheme(volume, {})


# --- a pod that can write into its volume


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (made := tmp_path / "outside").mkdir()
    (made / "file").write_bytes(b"the node's")
    return made


@pytest.mark.parametrize("act", [lambda v: write(v, B, None), lambda v: empty(v, {}), clear])
def test_links_out_of_the_volume_are_not_followed(volume: Path, outside: Path, act: Callable[[Path], object]) -> None:
    write(volume, A, None)
    generation = volume / os.readlink(volume / "..data")
    (generation / "user").unlink()
    (generation / "user").symlink_to(outside / "file")
    (generation / "folder").symlink_to(outside)
    (volume / "..2020_01_01_00_00_00.1").symlink_to(outside)
    (volume / "..data_tmp").symlink_to(outside)
    act(volume)
    assert (outside / "file").read_bytes() == b"the node's"
    assert os.listdir(outside) == ["file"]


def test_a_data_link_out_of_the_volume_is_replaced(volume: Path, outside: Path) -> None:
    (volume / "..data").symlink_to(outside)
    empty(volume, {})
    write(volume, A, None)
    check_scheme(volume, A)
    assert (outside / "file").read_bytes() == b"the node's"


def test_a_volume_that_is_a_link_is_refused(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "mount").symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        write(tmp_path / "mount", A, None)
    assert os.listdir(outside) == ["file"]


def test_a_pipe_holds_nobody_up(volume: Path) -> None:
    write(volume, A, None)
    generation = volume / os.readlink(volume / "..data")
    (generation / "user").unlink()
    os.mkfifo(generation / "user")
    empty(volume, A)
    write(volume, A, None)
    check_scheme(volume, A)


def test_a_file_that_grew_is_not_read(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(volume, A, None)
    os.truncate(volume / "user", 1 << 40)
    empty(volume, A)
    assert (volume / "user").stat().st_size == 0
    os.truncate(volume / "user", 1 << 40)
    assert write(volume, A, None)
    check_scheme(volume, A)
