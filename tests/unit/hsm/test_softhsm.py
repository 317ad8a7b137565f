"""SoftHSM's files."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from keyshred.hsm import softhsm
from keyshred.hsm.pkcs11_token import TokenInfo

SERIAL = "25de48008f07fd7d"
WHOLE = bytes(8) + bytes.fromhex("0000000000000001 0000000000000001 ff")
"""As much of an object file as says that the object is on the token."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A token's folder, beside another one."""
    tokens = tmp_path / "tokens"
    for name in ("1e5eb361-f2d6-68e4-25de-48008f07fd7d", "e7c8fea8-1c89-2c0c-5a8d-7b2d1d0a9446"):
        (tokens / name).mkdir(parents=True)
        for file in ("token.object", "token.lock", "generation", "key.object", "key.lock"):
            (tokens / name / file).write_bytes(WHOLE)
    (tmp_path / "conf").write_text(f"# comment\n directories.tokendir = {tokens} \nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "conf"))
    return tokens / "1e5eb361-f2d6-68e4-25de-48008f07fd7d"


def test_every_file_of_the_token_and_its_folder_is_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))

    softhsm.sync(SERIAL)

    assert sorted(synced) == sorted(map(str, [folder, *folder.iterdir()]))


def test_objects_are_counted_and_the_tokens_own_file_is_none(folder: Path) -> None:
    assert softhsm.object_count(SERIAL) == 1
    (folder / "key.object").unlink()
    assert softhsm.object_count(SERIAL) == 0


@pytest.mark.parametrize("content", [b"", WHOLE[:8], WHOLE[:-1], WHOLE[:-1] + b"\0"])
def test_a_file_whose_writing_was_cut_off_is_no_object(folder: Path, content: bytes) -> None:
    (folder / "other.object").write_bytes(content)
    assert softhsm.object_count(SERIAL) == 1


def test_a_copy_of_the_tokens_own_file_is_kept_and_put_back_where_that_is_empty(folder: Path) -> None:
    own = folder / "token.object"
    softhsm.keep_copy(SERIAL)
    assert not softhsm.put_back()

    own.write_bytes(b"")
    assert softhsm.put_back()
    assert own.read_bytes() == WHOLE
    assert not softhsm.put_back()


def test_the_copy_follows_the_tokens_own_file_and_not_its_counter_of_changes(folder: Path) -> None:
    own, copy = folder / "token.object", folder / "token.keyshred"
    softhsm.keep_copy(SERIAL)
    own.write_bytes(b"12345678" + WHOLE[8:])
    softhsm.keep_copy(SERIAL)
    assert copy.read_bytes() == WHOLE
    own.write_bytes(b"12345678" + WHOLE[8:] + b"another PIN")
    softhsm.keep_copy(SERIAL)
    assert copy.read_bytes() == own.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600


def test_an_empty_file_is_no_copy(folder: Path) -> None:
    softhsm.keep_copy(SERIAL)
    (folder / "token.object").write_bytes(b"")
    with pytest.raises(OSError, match="logging in"):
        softhsm.keep_copy(SERIAL)
    assert (folder / "token.keyshred").read_bytes() == WHOLE


@pytest.mark.parametrize(
    ("disk", "told"),
    [
        ({}, None),
        ({"f_flag": os.ST_RDONLY}, "read-only"),
        ({"f_bavail": 0}, "full"),
        ({"f_favail": 0}, "full"),
        ({"f_files": 0, "f_favail": 0}, None),
    ],
)
def test_what_keeps_files_from_being_written_keeps_softhsm_from_logging_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, disk: dict[str, int], told: str | None
) -> None:
    found = SimpleNamespace(**{"f_flag": 0, "f_bavail": 1, "f_files": 9, "f_favail": 1} | disk)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    if told is None:
        softhsm.keep_copy(SERIAL)
        assert softhsm.obstacle(SERIAL) is None
    else:
        with pytest.raises(OSError, match=told):
            softhsm.keep_copy(SERIAL)
        assert told in (softhsm.obstacle(SERIAL) or "")


def test_a_folder_that_is_away_is_an_error_not_a_success(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    for look in (softhsm.sync, softhsm.object_count):
        with pytest.raises(FileNotFoundError):
            look(SERIAL)


def test_another_backend_has_no_object_files_to_count(folder: Path) -> None:
    (folder / "token.object").rename(folder / "sqlite3.db")
    with pytest.raises(FileNotFoundError, match="backend"):
        softhsm.object_count(SERIAL)


def test_a_configuration_without_a_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").write_text("log.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "conf"))
    with pytest.raises(FileNotFoundError, match="tokendir"):
        softhsm.sync(SERIAL)


def test_softhsm_is_known_by_its_name() -> None:
    token = TokenInfo("label", SERIAL, "SoftHSM project", "SoftHSM v2", "2.6", 0, "slot", "vendor", pin_in_danger=False)
    assert softhsm.is_softhsm(token)
    assert not softhsm.is_softhsm(replace(token, manufacturer="A vendor", model="An HSM"))
