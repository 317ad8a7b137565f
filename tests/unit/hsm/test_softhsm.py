"""SoftHSM's files."""

import os
from pathlib import Path

import pytest

from keyshred.hsm import softhsm

SERIAL = "25de48008f07fd7d"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A token's folder, beside another one."""
    tokens = tmp_path / "tokens"
    for name in ("1e5eb361-f2d6-68e4-25de-48008f07fd7d", "e7c8fea8-1c89-2c0c-5a8d-7b2d1d0a9446"):
        (tokens / name).mkdir(parents=True)
        for file in ("token.object", "token.lock", "generation", "key.object", "key.lock"):
            (tokens / name / file).write_bytes(b"")
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
    assert softhsm.is_softhsm("SoftHSM project", "SoftHSM v2")
    assert not softhsm.is_softhsm("A vendor", "An HSM")
