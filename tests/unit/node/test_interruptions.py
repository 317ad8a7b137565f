"""Calls that fail half-way, are given up, or come at once."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyshred.errors import KeyGone, Malformed, NotReady, Refused
from keyshred.node import atomic_writer, mounts, publishing
from keyshred.node.unsealing import Opened
from keyshred.policy.volumes import Files, Item, Source
from tests.unit.node import SYS_ADMIN, may
from tests.unit.node.publishing import Secrets, Volume

pytestmark = pytest.mark.skipif(not may(SYS_ADMIN), reason="mounting needs CAP_SYS_ADMIN")


class Gate:
    """Stands before a function that runs in a thread."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.reached.set()
        assert self.opened.wait(60)
        return self.original(*args, **kwargs)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(atomic_writer.write)
    monkeypatch.setattr(atomic_writer, "write", gate)
    return gate


async def reached(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.reached.wait, 60)


async def test_a_first_publish_that_fails_leaves_no_mount(
    volume: Volume, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_SIZE", 2**20)
    secrets.stored["app"] = {"a": b"x" * 2**19}
    with pytest.raises(Refused, match="take more than the 1 MiB"):
        await volume.publish(Source("app", tuple(Item("a", f"copy-{n}") for n in range(8))))
    assert not mounts.is_mounted(volume.target)
    with pytest.raises(Malformed, match="below that of another file"):
        await volume.publish(Source("app", (Item("a", "x"),)), Source("db", (Item("c", "x/y"),)))
    assert not mounts.is_mounted(volume.target)


async def test_a_publish_that_is_given_up_ends_before_the_next_call(volume: Volume, gate: Gate) -> None:
    first = asyncio.create_task(volume.publish(Source("app")))
    await reached(gate)
    first.cancel()
    second = asyncio.create_task(volume.publisher.unpublish(volume.target))
    for _ in range(5):
        first.cancel()
        await asyncio.sleep(0)
    assert not first.done() and not second.done(), "its thread is still writing"
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert not volume.target.exists()


async def test_a_first_publish_that_is_given_up_is_not_mounted(volume: Volume, gate: Gate) -> None:
    first = asyncio.create_task(volume.publish(Source("app")))
    await reached(gate)
    first.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not mounts.is_mounted(volume.target)


async def test_an_update_that_is_given_up_is_made_again(volume: Volume, secrets: Secrets, gate: Gate) -> None:
    gate.opened.set()
    await volume.publish(Source("app"))
    gate.reached.clear()
    gate.opened.clear()
    secrets.stored["app"] = KeyGone("destroyed")
    update = asyncio.create_task(volume.publish(Source("app")))
    await reached(gate)
    update.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await update
    assert mounts.is_mounted(volume.target) and secrets.cleared == []
    await volume.publish(Source("app"))
    assert volume.files == {} and secrets.cleared == [("app", "v")]


async def test_a_driver_that_died_between_mount_and_files(volume: Volume, secrets: Secrets) -> None:
    mounts.mount(volume.target, 2**20)
    secrets.stored["app"] = KeyGone("destroyed")
    with pytest.raises(KeyGone):
        await volume.publish(Source("app"))
    secrets.stored["app"] = {"a": b"1"}
    await volume.publish(Source("app"))
    assert volume.files == {"a": b"1"}


async def test_a_call_has_a_deadline(volume: Volume, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: str) -> Opened:
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_PATIENCE", 0.05)
        patched.setattr(secrets, "unseal", never)
        with pytest.raises(NotReady, match="not filled within"):
            await volume.publish(Source("app"))
    await volume.publish(Source("app"))


async def test_one_namespace_keeps_no_other_waiting(
    volume: Volume, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseal, waiting = secrets.unseal, asyncio.Event()

    async def slow(namespace: str, name: str, token: str, etag: str = "", cleared: str = "") -> Opened:
        if namespace == "greedy":
            await waiting.wait()
        return await unseal(namespace, name, token, etag, cleared)

    monkeypatch.setattr(secrets, "unseal", slow)
    greedy = {"csi.storage.k8s.io/pod.namespace": "greedy"}
    targets = [volume.target.parent.parent / f"v{n}" / "mount" for n in range(2 * publishing._AT_A_TIME)]
    tasks = [asyncio.create_task(volume.publish(Source("app"), target=t, context=greedy)) for t in targets]
    await asyncio.sleep(0)
    await volume.publish(Source("app"))
    assert volume.files == {"a": b"one", "b": b"two"} and not any(t.done() for t in tasks)
    waiting.set()
    await asyncio.gather(*tasks)
    for target in targets:
        await volume.publisher.unpublish(target)


async def test_nothing_is_kept_of_who_has_gone(volume: Volume) -> None:
    await volume.publish(Source("app"))
    await volume.publisher.unpublish(volume.target)
    assert not volume.publisher._locks and not volume.publisher._slots_of and volume.publisher.published == 0
    assert list((volume.folder / "known").iterdir()) == []


async def test_a_full_disk_keeps_no_pod_from_its_files(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    (volume.folder / "known").write_text("a file, so that there can be no folder")
    await volume.publish(Source("app"))
    assert volume.files == {"a": b"one", "b": b"two"}
    assert "is known to this process alone" in caplog.text
    (volume.folder / "known").unlink()


# --- directories for other volumes


async def test_a_link_of_the_pod_leads_the_driver_nowhere(volume: Volume, secrets: Secrets, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    plain, nested = Files((Source("app"),)), Files((Source("app"),), nested=("sub/deeper",))
    await volume.publisher.publish(volume.request(plain))
    (volume.target / "sub").symlink_to(outside)
    with pytest.raises(Malformed, match="no directory can be made"):
        await volume.publisher.publish(volume.request(nested))
    secrets.stored["app"] = KeyGone("destroyed")
    with pytest.raises(Malformed, match="no directory can be made"):
        await volume.publisher.publish(volume.request(nested))
    assert os.listdir(outside) == [] == os.listdir(volume.target / "..data")


async def test_a_directory_hides_files_of_its_name_as_the_kubelet_has_it(volume: Volume, secrets: Secrets) -> None:
    wanted = Files((Source("app", (Item("a", "sub/file"), Item("b", "b"))),), nested=("sub/deeper",))
    await volume.publisher.publish(volume.request(wanted, group=2000))
    assert os.listdir(volume.target / "sub") == ["deeper"] and not (volume.target / "sub").is_symlink()
    status = (volume.target / "sub" / "deeper").stat()
    assert (status.st_gid, status.st_mode & 0o7777) == (2000, 0o2755)
    assert (volume.target / "b").read_bytes() == b"two"
