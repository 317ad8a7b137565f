"""The scheme of the kubelet's AtomicWriter, and what an fsGroup adds."""

import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyshred.errors import Malformed
from keyshred.node.atomic_writer import write
from keyshred.node.payload import File
from tests.unit.node import CHOWN, DAC_OVERRIDE, A, B, check_scheme, may, shown, states

GROUP = 2345
as_root = pytest.mark.skipif(
    not (may(CHOWN) and may(DAC_OVERRIDE)), reason="needs CAP_CHOWN and CAP_DAC_OVERRIDE, as the node plugin has them"
)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (made := tmp_path / "mount").mkdir()
    made.chmod(0o1777)
    return made


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


# --- writing


@pytest.mark.usefixtures("umask")
def test_files_are_shown_through_links_with_exact_modes(volume: Path) -> None:
    assert write(volume, A, None)
    check_scheme(volume, A)
    assert stat.S_IMODE(volume.stat().st_mode) == 0o1777


def test_an_update_replaces_all_and_leaves_nothing_stale(volume: Path) -> None:
    write(volume, A, None)
    before = os.readlink(volume / "..data")
    assert write(volume, B, None)
    check_scheme(volume, B)
    assert os.readlink(volume / "..data") != before


def test_an_empty_payload_is_one(volume: Path) -> None:
    assert write(volume, {}, None)
    check_scheme(volume, {})
    assert not write(volume, {}, None)
    write(volume, A, None)
    assert write(volume, {}, None)
    check_scheme(volume, {})


def test_what_is_unchanged_is_not_written(volume: Path) -> None:
    write(volume, A, None)
    before = states(volume)
    assert not write(volume, dict(reversed(A.items())), None)
    assert states(volume) == before


@pytest.mark.parametrize(
    "change",
    [
        {"user": File(b"Admin", 0o644)},
        {"user": File(b"admi", 0o644)},
        {"user": File(b"admin", 0o600)},
        {"more": File(b"", 0o644)},
        {"tls/more": File(b"", 0o644)},
    ],
)
def test_any_change_is_written(volume: Path, change: dict[str, File]) -> None:
    write(volume, A, None)
    assert write(volume, A | change, None)
    check_scheme(volume, A | change)


def test_links_that_a_crash_left_out_are_made_though_the_files_are_unchanged(volume: Path) -> None:
    # kubernetes/kubernetes#121472
    write(volume, A, None)
    (volume / "user").unlink()
    (volume / "old").symlink_to("..data/old")
    assert not write(volume, A, None)
    check_scheme(volume, A)


def test_a_file_becomes_a_directory_and_a_file_again(volume: Path) -> None:
    for payload in ({"a": File(b"1", 0o644)}, {"a/b": File(b"2", 0o644)}, {"a": File(b"3", 0o644)}):
        write(volume, payload, None)
        check_scheme(volume, payload)


def test_what_others_put_there_stays(volume: Path) -> None:
    (volume / "nested").mkdir()
    (volume / "link").symlink_to("/etc")
    write(volume, A, None)
    write(volume, {}, None)
    assert {"nested", "link"} <= set(os.listdir(volume))


def test_a_large_value_is_whole(volume: Path) -> None:
    payload = {"big": File(os.urandom(3_000_000), 0o644)}
    write(volume, payload, None)
    check_scheme(volume, payload)


def test_names_of_generations_that_clash_are_made_anew(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([7, 7, 8])
    monkeypatch.setattr(time, "gmtime", lambda: (2030, 1, 2, 3, 4, 5, 0, 0, 0))
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(numbers))
    write(volume, A, None)
    assert os.readlink(volume / "..data") == "..2030_01_02_03_04_05.7"
    write(volume, B, None)
    assert os.readlink(volume / "..data") == "..2030_01_02_03_04_05.8"


# --- paths


@pytest.mark.parametrize(
    "path",
    [
        *[
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "..x",
            "..data",
            "./..data",
            "a\0b",
            ".",
            "./",
            "a/../b",
        ],
        *["x" * 256, "ü" * 128, "/".join(["x" * 200] * 21)],
    ],
)
def test_a_path_out_of_the_volume_is_refused_and_nothing_written(volume: Path, path: str) -> None:
    with pytest.raises(Malformed):
        write(volume, {"good": File(b"", 0o644), path: File(b"", 0o644)}, None)
    assert os.listdir(volume) == []


def test_a_file_below_a_file_is_refused(volume: Path) -> None:
    with pytest.raises(Malformed):
        write(volume, {"a/b/c": File(b"", 0o644), "a": File(b"", 0o644)}, None)
    assert os.listdir(volume) == []


def test_paths_are_cleaned_as_the_kubelet_does(volume: Path) -> None:
    write(volume, {"./a//b/./c": A["user"]}, None)
    check_scheme(volume, {"a/b/c": A["user"]})


# --- fsGroup


@as_root
@pytest.mark.usefixtures("umask")
def test_a_group_gets_what_the_kubelet_gives_it_on_a_read_only_volume(volume: Path) -> None:
    payload = {"a": File(b"1", 0o400), "d/b": File(b"2", 0o604), "d/c": File(b"3", 0)}
    write(volume, payload, GROUP)
    # k8s pkg/volume/volume_linux_test.go: files | 0440, directories | 02550, and that is for the volume itself, too.
    assert {path: file.mode for path, file in shown(volume).items()} == {"a": 0o440, "d/b": 0o644, "d/c": 0o440}
    generation = os.readlink(volume / "..data")
    modes = {path: mode for path, (_, mode, _) in states(volume).items()}
    assert modes["."] == stat.S_IFDIR | 0o3777
    assert modes[generation] == modes[f"{generation}/d"] == stat.S_IFDIR | 0o2755
    assert {group for _, _, group in states(volume).values()} == {GROUP}
    assert {p.lstat().st_uid for p in volume.rglob("*")} == {0}


@as_root
def test_what_a_group_has_is_unchanged_the_second_time(volume: Path) -> None:
    write(volume, A, GROUP)
    before = states(volume)
    assert not write(volume, A, GROUP)
    assert states(volume) == before
    assert write(volume, A, GROUP + 1)
    assert {path.stat().st_gid for path in volume.rglob("*")} == {GROUP + 1}


@as_root
def test_links_of_an_update_are_the_groups_too(volume: Path) -> None:
    write(volume, A, GROUP)
    write(volume, B, GROUP)
    assert {group for _, _, group in states(volume).values()} == {GROUP}
