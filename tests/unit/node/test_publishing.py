"""Which calls a publish makes, and what stays when something is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyshred.errors import KeyGone, KeyNotUsable, KeyshredError, Malformed, NotFound, NotReady, Refused
from keyshred.node import mounts, publishing
from keyshred.node.publishing import TOKENS
from keyshred.node.unsealing import Opened
from keyshred.policy.volumes import Files, Item, Source, Variable, Variables
from tests.unit.node import SYS_ADMIN, may
from tests.unit.node.publishing import UID, Secrets, Volume

pytestmark = pytest.mark.skipif(not may(SYS_ADMIN), reason="mounting needs CAP_SYS_ADMIN")


async def test_published_once_and_then_asked_about(volume: Volume, secrets: Secrets) -> None:
    await volume.publish(Source("app"), Source("db"))
    assert volume.files == {"a": b"one", "b": b"two", "c": b"three"}
    assert secrets.asked == [("app", ""), ("db", "")] and secrets.tokens == {"the-token"}
    before = volume.target.joinpath("..data").readlink()
    secrets.asked.clear()
    await volume.publish(Source("app"), Source("db"))
    assert len(secrets.asked) == 2 and all(etag for _, etag in secrets.asked), "one conditional call each"
    assert volume.target.joinpath("..data").readlink() == before, "nothing was written"


async def test_a_change_of_one_of_two(volume: Volume, secrets: Secrets) -> None:
    await volume.publish(Source("app"), Source("db"))
    secrets.stored["db"] = {"c": b"new", "d": b"more"}
    await volume.publish(Source("app"), Source("db"))
    assert volume.files == {"a": b"one", "b": b"two", "c": b"new", "d": b"more"}


async def test_an_optional_secret_comes_and_goes(volume: Volume, secrets: Secrets) -> None:
    late = Source("late", optional=True)
    await volume.publish(late)
    assert volume.files == {}
    secrets.stored["late"] = {"k": b"v"}
    await volume.publish(late)
    assert volume.files == {"k": b"v"}
    del secrets.stored["late"]
    await volume.publish(late)
    assert volume.files == {}


async def test_a_missing_secret_is_waited_for(volume: Volume, secrets: Secrets) -> None:
    with pytest.raises(NotFound, match="Secret late does not exist"):
        await volume.publish(Source("late"))
    assert not mounts.is_mounted(volume.target)
    secrets.stored["late"] = {"k": b"v"}
    await volume.publish(Source("late"))
    del secrets.stored["late"]
    with pytest.raises(NotFound):
        await volume.publish(Source("late"))
    assert volume.files == {"k": b"v"}, "as the kubelet: what is there stays"


@pytest.mark.parametrize("error", [KeyNotUsable("suspended"), NotReady("nobody answers")])
async def test_what_is_refused_or_away_leaves_files_as_they_are(
    volume: Volume, secrets: Secrets, error: KeyshredError
) -> None:
    await volume.publish(Source("app"))
    kept, secrets.stored["app"] = secrets.stored["app"], error
    with pytest.raises(type(error)):
        await volume.publish(Source("app"))
    assert volume.files == {"a": b"one", "b": b"two"}
    secrets.stored["app"] = kept
    await volume.publish(Source("app"))


async def test_destroyed_files_are_emptied_and_vanish_and_others_stay(volume: Volume, secrets: Secrets) -> None:
    await volume.publish(Source("app"), Source("db"))
    with volume.target.joinpath("a").open("rb") as held, volume.target.joinpath("c").open("rb") as kept:
        secrets.stored["app"] = KeyGone("destroyed")
        await volume.publish(Source("app"), Source("db"))
        assert volume.files == {"c": b"three"}
        assert held.read() == b"", "who kept it open, or mounted it by subPath, has an empty file"
        assert kept.read() == b"three"
    secrets.asked.clear()
    await volume.publish(Source("app"), Source("db"))
    assert volume.files == {"c": b"three"}


async def test_what_was_cleared_is_said_at_once_and_at_each_later_look(volume: Volume, secrets: Secrets) -> None:
    await volume.publish(Source("app"), Source("db"))
    secrets.stored["app"] = KeyGone("destroyed")
    for said in range(1, 4):
        await volume.publish(Source("app"), Source("db"))
        assert secrets.cleared == [("app", "v")] * said


async def test_it_is_said_after_the_files_are_gone_and_nobody_need_hear_it(
    volume: Volume, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume.publish(Source("app"))
    secrets.stored["app"] = KeyGone("destroyed")
    files: list[dict[str, bytes]] = []
    unseal = secrets.unseal

    async def listening(namespace: str, name: str, token: str, etag: str = "", cleared: str = "") -> Opened:
        if cleared:
            files.append(volume.files)
            raise NotReady("nobody answers")
        return await unseal(namespace, name, token, etag, cleared)

    monkeypatch.setattr(secrets, "unseal", listening)
    await volume.publish(Source("app"))
    assert files == [{}]


async def test_of_variables_nothing_is_said(volume: Volume, secrets: Secrets) -> None:
    """The container's own copies of them are still there."""
    wanted = Variables((Variable("app", "a"),))
    await volume.publisher.publish(volume.request(wanted))
    secrets.stored["app"] = KeyGone("destroyed")
    for _ in range(2):
        await volume.publisher.publish(volume.request(wanted))
    assert secrets.cleared == [] and not (volume.target / "app").exists()


async def test_a_pod_that_comes_after_the_destruction_waits(volume: Volume, secrets: Secrets) -> None:
    secrets.stored["app"] = KeyGone("destroyed")
    with pytest.raises(KeyGone):
        await volume.publish(Source("app"))
    assert not mounts.is_mounted(volume.target)
    assert secrets.cleared == []


async def test_a_plugin_that_starts_anew_takes_over(volume: Volume, secrets: Secrets) -> None:
    await volume.publish(Source("app"))
    before = volume.target.joinpath("..data").readlink()
    volume.start_anew()
    await volume.publish(Source("app"))
    assert volume.target.joinpath("..data").readlink() == before
    secrets.stored["app"] = KeyGone("destroyed")
    volume.start_anew()
    await volume.publish(Source("app"))
    assert volume.files == {}


async def test_variables(volume: Volume, secrets: Secrets) -> None:
    wanted = Variables((Variable("app", "a"), Variable("app", "none", True), Variable("absent", "k", True)))
    await volume.publisher.publish(volume.request(wanted))
    assert (volume.target / "app" / "a").read_bytes() == b"V='one'\n"
    assert (volume.target / "app" / "none").read_bytes() == b""
    assert (volume.target / "absent" / "k").read_bytes() == b""


async def test_directories_for_volumes_below_it(volume: Volume) -> None:
    await volume.publisher.publish(volume.request(Files((Source("app"),), nested=("sub/deeper",))))
    assert (volume.target / "sub" / "deeper").is_dir()
    await volume.publisher.publish(volume.request(Files((Source("app"),), nested=("sub/deeper",))))


async def test_more_than_a_volume_may_hold(volume: Volume, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_SIZE", 2**20)
    secrets.stored["app"] = {"a": b"x" * 2**19}
    await volume.publish(Source("app"))
    many = tuple(Item("a", f"copy-{n}") for n in range(8))
    with pytest.raises(Refused, match="take more than the 1 MiB"):
        await volume.publish(Source("app", many))
    assert volume.files == {"a": b"x" * 2**19}, "what was there stays"


async def test_owners_for_a_group(volume: Volume) -> None:
    await volume.publish(Source("app"), group=2000)
    status = (volume.target / "a").stat()
    assert (status.st_gid, status.st_mode & 0o7777) == (2000, 0o644)


def _strange(folder: Path) -> Iterator[dict[str, Any]]:
    yield {"target": folder / "elsewhere" / "mount"}
    yield {"target": folder / "pods" / UID / ".." / "other" / "mount"}
    yield {"target": folder / "pods" / "another" / "volumes" / "kubernetes.io~csi" / "v" / "mount"}
    yield {"target": folder / "pods" / UID / "volumes" / "kubernetes.io~csi" / "v" / "etc"}
    yield {"context": {"csi.storage.k8s.io/ephemeral": "false"}}
    yield {"context": {"csi.storage.k8s.io/pod.uid": ""}}
    yield {"secrets": {}}
    yield {"secrets": {TOKENS: "no json"}}
    yield {"secrets": {TOKENS: '{"other": {"token": "t"}}'}}


async def test_calls_that_no_kubelet_makes(volume: Volume, secrets: Secrets, tmp_path: Path) -> None:
    for changes in _strange(tmp_path):
        with pytest.raises(Malformed):
            await volume.publish(Source("app"), **changes)
    assert not secrets.asked and not mounts.is_mounted(volume.target)
    with pytest.raises(Malformed):
        await volume.publisher.unpublish(Path("/etc/mount"))


async def test_an_older_kubelet_sends_the_token_with_the_attributes(volume: Volume, secrets: Secrets) -> None:
    tokens = json.dumps({"keyshred.dev": {"token": "older"}})
    await volume.publish(Source("app"), secrets={}, context={TOKENS: tokens})
    assert secrets.tokens == {"older"}
