"""Files for environments follow the volume that they were copied from."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyshred.errors import KeyGone, KeyNotUsable
from keyshred.node import copies, mounts
from keyshred.node.payload import File
from keyshred.policy.volumes import Variable, Variables
from tests.unit.node import SYS_ADMIN, may
from tests.unit.node.publishing import Secrets, Volume

pytestmark = pytest.mark.skipif(not may(SYS_ADMIN), reason="mounting needs CAP_SYS_ADMIN")

WANTED = Variables((Variable("app", "a"), Variable("app", "none", True), Variable("db", "c")))


@pytest.fixture
def made(volume: Volume) -> Iterator[Path]:
    """The emptyDir, as the kubelet mounts it before the pod's init container runs."""
    folder = copies.folder(volume.target)
    assert folder.is_relative_to(volume.folder / "pods" / volume.target.parents[3].name / "volumes")
    mounts.mount(folder, 2**20)
    yield folder
    mounts.unmount(folder)


async def publish(volume: Volume) -> None:
    await volume.publisher.publish(volume.request(WANTED))


def copy(volume: Volume, folder: Path) -> None:
    """What the init container does, as a user of its own."""
    for path in ("app/a", "app/none", "db/c"):
        (to := folder / path).parent.mkdir(exist_ok=True)
        to.write_bytes((volume.target / path).read_bytes())
        os.chown(to, 1234, 5678)
        to.chmod(0o444)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


async def test_a_container_that_starts_again_has_the_values_of_now(
    volume: Volume, secrets: Secrets, made: Path
) -> None:
    await publish(volume)
    assert contents(made) == {}, "they are the init container's to make"
    copy(volume, made)
    secrets.stored["app"] = {"a": b"new", "none": b"now"}
    before = (made / "db" / "c").stat().st_ino
    with (made / "app" / "a").open("rb") as read:
        await publish(volume)
        assert read.read() == b"V='one'\n", "who reads it has one value or the other"
    assert contents(made) == {"app/a": b"V='new'\n", "app/none": b"V='now'\n", "db/c": b"V='three'\n"}
    status = (made / "app" / "a").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 5678, 0o444)
    assert (made / "db" / "c").stat().st_ino == before


async def test_a_destroyed_key_takes_them_along(volume: Volume, secrets: Secrets, made: Path) -> None:
    await publish(volume)
    copy(volume, made)
    secrets.stored["app"] = KeyGone("destroyed")
    with (made / "app" / "a").open("rb") as held:
        await publish(volume)
        assert held.read() == b""
    assert contents(made) == {"app/a": b"", "app/none": b"", "db/c": b"V='three'\n"}


async def test_and_so_it_does_while_another_secret_is_refused(volume: Volume, secrets: Secrets, made: Path) -> None:
    await publish(volume)
    copy(volume, made)
    secrets.stored |= {"app": KeyGone("destroyed"), "db": KeyNotUsable("suspended")}
    volume.start_anew()
    with pytest.raises(KeyNotUsable):
        await publish(volume)
    assert contents(made) == {"app/a": b"", "app/none": b"", "db/c": b"V='three'\n"}


def test_nothing_of_the_pod_is_followed(made: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "a").write_bytes(b"the node's")
    (made / "app").symlink_to(outside)
    (made / "db").mkdir()
    (made / "db" / "link").symlink_to(outside / "a")
    os.mkfifo(made / "db" / "pipe")
    (made / "db" / "folder").mkdir()
    paths = {"app/a", "db/link", "db/pipe", "db/folder", "none/a", "db/none"}
    copies.renew(made, dict.fromkeys(paths, File(b"new", 0o444)))
    copies.empty(made, paths)
    assert (outside / "a").read_bytes() == b"the node's" and os.listdir(outside) == ["a"]
    assert sorted(os.listdir(made / "db")) == ["folder", "link", "pipe"]


def test_what_a_driver_left_that_died_goes(made: Path) -> None:
    (made / "app").mkdir()
    for name in ("a", "a.keyshred-new"):
        (made / "app" / name).write_bytes(b"old")
    copies.renew(made, {"app/a": File(b"new", 0o444)})
    assert contents(made) == {"app/a": b"new"}


def test_no_value_gets_to_a_disk(tmp_path: Path) -> None:
    (folder := tmp_path / "app").mkdir()
    (folder / "a").write_bytes(b"old")
    copies.renew(tmp_path, {"app/a": File(b"new", 0o444)})
    assert contents(tmp_path) == {"app/a": b"old"}


async def test_no_room_for_them_keeps_no_volume_from_its_files(
    volume: Volume, secrets: Secrets, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(volume)
    copy(volume, made)
    secrets.stored["app"] = {"a": b"x\n" * 2**19}
    await publish(volume)
    assert "has values of before: No space left" in caplog.text
    assert (volume.target / "app" / "a").stat().st_size > 2**20
    assert contents(made)["app/a"] == b"V='one'\n" and not (made / "app" / "a.keyshred-new").exists()
    secrets.stored["app"] = {"a": b"small"}
    await publish(volume)
    assert contents(made)["app/a"] == b"V='small'\n"
