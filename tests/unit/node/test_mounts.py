"""Volumes of memory, mounted for real, and the mount table read."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyshred.node import mounts
from keyshred.node.atomic_writer import empty, empty_paths, write
from keyshred.node.mounts import bound_from, is_mounted, mount, unmount
from keyshred.node.payload import File
from tests.unit.node import SYS_ADMIN, clear, may, shown

SIZE = 1 << 20


as_root = pytest.mark.skipif(not may(SYS_ADMIN), reason="needs CAP_SYS_ADMIN, to mount")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    yield (made := tmp_path / "a volume" / "mount")
    for path in bound_from(made):
        mounts._unmount(path, 0)
    unmount(made)


def options_of(target: Path) -> set[str]:
    lines = [line.split(" ") for line in Path("/proc/mounts").read_text().splitlines()]
    return next(set(fields[3].split(",")) for fields in lines if fields[1] == str(target).replace(" ", r"\040"))


def bind(source: Path, point: Path) -> None:
    """As the kubelet mounts a subPath."""
    if source.is_dir():
        point.mkdir()
    else:
        point.touch()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(os.fsencode(source), os.fsencode(point), None, ctypes.c_ulong(0x1000), None) == 0


@as_root
def test_a_volume_is_memory_with_the_mode_of_the_kubelets(target: Path) -> None:
    assert not is_mounted(target)
    mount(target, SIZE)
    assert is_mounted(target)
    # A tmpfs without noswap, noexec or a mode has this one, and the kubelet sets none.
    assert target.stat().st_mode & 0o7777 == 0o1777
    assert {"rw", "nosuid", "nodev", "size=1024k"} <= options_of(target)
    assert "noexec" not in options_of(target)
    assert not list(target.iterdir())


@as_root
def test_a_mounted_volume_is_not_mounted_over(target: Path) -> None:
    mount(target, SIZE)
    (target / "file").touch()
    mount(target, SIZE)
    assert (target / "file").exists()


@as_root
def test_the_size_is_a_limit(target: Path) -> None:
    mount(target, SIZE)
    write(target, {"a": File(b"1", 0o644)}, None)
    with pytest.raises(OSError, match="No space left"):
        write(target, {"a": File(bytes(2 * SIZE), 0o644)}, None)
    assert (target / "a").read_bytes() == b"1"


@as_root
def test_unmounting_is_idempotent(target: Path) -> None:
    target.parent.mkdir()
    unmount(target)
    target.mkdir()
    unmount(target)
    assert not target.exists()
    mount(target, SIZE)
    (target / "file").touch()
    unmount(target)
    unmount(target)
    assert not target.exists()


@as_root
def test_a_busy_volume_is_unmounted(target: Path) -> None:
    mount(target, SIZE)
    (target / "file").write_bytes(b"1")
    with (target / "file").open("rb") as opened:
        unmount(target)
        assert opened.read() == b"1"
    assert not target.exists()


@as_root
def test_a_target_below_a_link_is_found(target: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    linked = tmp_path / "link" / "a volume" / "mount"
    mount(linked, SIZE)
    assert is_mounted(target)
    assert is_mounted(linked)
    unmount(linked)
    assert not target.exists()


def test_what_is_no_directory_cannot_be_a_target(tmp_path: Path) -> None:
    (tmp_path / "mount").touch()
    with pytest.raises(FileExistsError):
        mount(tmp_path / "mount", SIZE)


@as_root
def test_an_old_kernel_is_mounted_without_noswap_and_said_once(
    target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, asked = mounts._mount, []

    def old(target: Path, options: str) -> None:
        asked.append(options)
        if "noswap" in options:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(target, options)

    monkeypatch.setattr(mounts, "_mount", old)
    mounts._say_no_noswap.cache_clear()
    for _ in range(2):
        mount(target, SIZE)
        assert is_mounted(target)
        unmount(target)
    assert asked == [f"size=1048576,nr_inodes=256,mode=1777{more}" for more in (",noswap", "")] * 2
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_another_error_of_the_kernel_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: Path, options: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(mounts, "_mount", refuse)
    with pytest.raises(PermissionError):
        mount(tmp_path / "mount", SIZE)


# --- subPath


@as_root
def test_a_subpath_becomes_empty_and_so_does_one_of_before_an_update(target: Path, tmp_path: Path) -> None:
    mount(target, SIZE)
    first, now, other, kept = (tmp_path / name for name in ("first", "now", "other", "kept"))
    write(target, {"tls/key": File(b"first", 0o400), "kept": File(b"old", 0o644)}, None)
    bind(target / "tls" / "key", first)
    bind(target / "kept", kept)
    payload = {"tls/key": File(b"second", 0o400), "kept": File(b"new", 0o644), "other": File(b"o", 0o644)}
    write(target, payload, None)
    bind(target / "tls" / "key", now)
    bind(target / "other", other)
    assert [p.read_bytes() for p in (first, now, other, kept)] == [b"first", b"second", b"o", b"old"]
    assert set(bound_from(target)) == {first, now, other, kept}
    assert bound_from(target)[first].partition("/")[2] == "tls/key"
    empty(target, {p: payload[p] for p in ("kept", "other")})
    assert [p.read_bytes() for p in (first, now, other, kept)] == [b"", b"", b"o", b"old"]
    clear(target)
    assert [p.read_bytes() for p in (first, now, other, kept)] == [b""] * 4
    assert set(os.listdir(target)) == {"..data", os.readlink(target / "..data")}


@as_root
def test_an_earlier_value_of_what_is_kept_goes_where_its_key_did(target: Path, tmp_path: Path) -> None:
    mount(target, SIZE)
    write(target, {"moved": File(b"old", 0o644, "app"), "same": File(b"old", 0o644, "db")}, None)
    for name in ("moved", "same"):
        bind(target / name, tmp_path / name)
    now = {"moved": File(b"new", 0o644, "app"), "same": File(b"new", 0o644, "db")}
    write(target, now, None)
    bind(target / "moved", tmp_path / "moved now")
    empty(target, now, also_former=frozenset({"app"}))
    assert [(tmp_path / n).read_bytes() for n in ("moved", "same", "moved now")] == [b"", b"old", b"new"]
    assert {p: f.data for p, f in shown(target).items()} == {"moved": b"new", "same": b"new"}


@as_root
def test_files_of_some_paths_are_emptied_and_others_stay(target: Path, tmp_path: Path) -> None:
    mount(target, SIZE)
    for value in (b"old", b"new"):
        write(target, {"a": File(value, 0o400), "b/c": File(value, 0o644)}, None)
        bind(target / "a", tmp_path / f"a {value.decode()}")
    bind(target / "b" / "c", tmp_path / "c")
    empty_paths(target, {"a"})
    assert [(tmp_path / n).read_bytes() for n in ("a old", "a new", "c")] == [b"", b"", b"new"]
    assert {p: f.data for p, f in shown(target).items()} == {"a": b"", "b/c": b"new"}


@as_root
def test_more_empty_files_than_there_is_room_for(target: Path) -> None:
    mount(target, SIZE)
    with pytest.raises(OSError, match="No space left"):
        write(target, {str(n): File(b"", 0o644) for n in range(300)}, None)


@as_root
def test_a_subpath_of_a_directory_is_no_file_to_empty(target: Path, tmp_path: Path) -> None:
    mount(target, SIZE)
    write(target, {"tls/key": File(b"1", 0o400)}, None)
    bind(target / "tls", folder := tmp_path / "folder")
    assert (folder / "key").read_bytes() == b"1"
    clear(target)
    assert list(folder.iterdir()) == []


@as_root
def test_a_subpath_that_cannot_be_emptied_is_told_and_holds_up_nothing(
    target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mount(target, SIZE)
    write(target, {"key": File(b"1", 0o400)}, None)
    bind(target / "key", locked := tmp_path / "locked")
    write(target, {"key": File(b"2", 0o400)}, None)
    assert mounts._libc.mount(None, os.fsencode(locked), None, ctypes.c_ulong(0x1021), None) == 0
    clear(target)
    assert not (target / "key").exists()
    assert [r.getMessage() for r in caplog.records] == [
        f"a value stays readable at {locked} until its pod ends: Read-only file system"
    ]


def test_a_directory_that_is_no_volume_has_no_subpaths(tmp_path: Path) -> None:
    assert bound_from(tmp_path) == {}


# --- the mount table

TABLE = r"""22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /pods/a\040b\134\011c rw,nosuid shared:7 master:2 - tmpfs tmpfs rw,size=4k
31 22 0:41 / /pods/other rw - ext4 /dev/sdb rw
32 22 0:42 / /pods/over rw - tmpfs tmpfs rw
33 32 0:43 / /pods/over rw - ext4 /dev/sdc rw
40 22 0:40 /..2030_01_02_03_04_05.7/k\040y//deleted /sub/0 rw - tmpfs tmpfs rw
41 22 0:40 /..2030_01_02_03_04_05.8/d/e /sub/1 rw - tmpfs tmpfs rw
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (written := tmp_path / "mountinfo").write_bytes(TABLE.encode() + b"50 22 0:50 / /\xff\r\x85 rw - tmpfs tmpfs rw\n")
    monkeypatch.setattr(mounts, "_MOUNTINFO", written)


@pytest.mark.usefixtures("table")
def test_the_table_is_read_as_the_kernel_writes_it() -> None:
    assert is_mounted(Path("/pods/a b\\\tc"))
    assert is_mounted(Path(os.fsdecode(b"/\xff\r\x85")))
    # Another kind, and one that another kind is mounted over.
    assert not any(is_mounted(Path("/pods", name)) for name in ("other", "over", "a", "a b", "none"))


@pytest.mark.usefixtures("table")
def test_subpaths_are_read_from_the_table() -> None:
    assert bound_from(Path("/pods/a b\\\tc")) == {
        Path("/sub/0"): "..2030_01_02_03_04_05.7/k y",
        Path("/sub/1"): "..2030_01_02_03_04_05.8/d/e",
    }


def test_the_table_is_read_until_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = iter([b"one", b"two", b"two", b"three"])

    class Changing:
        def read_bytes(self) -> bytes:
            return next(reads)

    monkeypatch.setattr(mounts, "_MOUNTINFO", Changing())
    assert mounts._mountinfo() == b"two"
