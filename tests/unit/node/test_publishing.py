"""Which calls a publish makes, and what stays when something is refused."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keyshred.errors import KeyGone, KeyNotUsable, KeyshredError, Malformed, NotFound, NotReady, Refused
from keyshred.node import mounts, publishing
from keyshred.node.publishing import TOKENS, Publisher, Request
from keyshred.node.unsealing import Opened
from keyshred.policy.volumes import Content, Files, Item, Source, Variable, Variables, attributes
from tests.unit.node import SYS_ADMIN, may

pytestmark = pytest.mark.skipif(not may(SYS_ADMIN), reason="mounting needs CAP_SYS_ADMIN")
UID = "0f1e"


@dataclass
class Secrets:
    """What the webhook would say, and how often it was asked."""

    stored: dict[str, dict[str, bytes] | KeyshredError] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    cleared: list[tuple[str, str]] = field(default_factory=list)
    """Secret, and the volume that was said to be cleared of it."""

    async def unseal(self, namespace: str, name: str, token: str, etag: str, cleared: str) -> Opened:
        self.asked.append((name, etag))
        if cleared:
            self.cleared.append((name, cleared))
        self.tokens.add(token)
        found = self.stored.get(name, NotFound(f"Secret {name} in namespace {namespace}: not found"))
        if isinstance(found, KeyshredError):
            raise found
        now = f'"{sorted(found.items())!r}"'
        return Opened(now, None if etag == now else found)


class Volume:
    """One volume of a pod."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self.target = folder / "pods" / UID / "volumes" / "kubernetes.io~csi" / "v" / "mount"
        self.target.parent.mkdir(parents=True)
        self.secrets = secrets
        self.publisher = Publisher(secrets.unseal, folder)

    def request(self, content: Content, **changes: Any) -> Request:
        context = {
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": "p",
            "csi.storage.k8s.io/pod.namespace": "ns",
            "csi.storage.k8s.io/pod.uid": UID,
        }
        tokens = json.dumps({"keyshred.dev": {"token": "the-token"}})
        return Request(
            changes.get("target", self.target),
            attributes(content) | context | changes.get("context", {}),
            changes.get("secrets", {TOKENS: tokens}),
            changes.get("group"),
        )

    async def publish(self, *sources: Source, **changes: Any) -> None:
        await self.publisher.publish(self.request(Files(sources), **changes))

    @property
    def files(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.target.iterdir() if not p.name.startswith("..")}


@pytest.fixture
def secrets() -> Secrets:
    return Secrets({"app": {"a": b"one", "b": b"two"}, "db": {"c": b"three"}})


@pytest.fixture
async def volume(tmp_path: Path, secrets: Secrets) -> AsyncIterator[Volume]:
    made = Volume(tmp_path, secrets)
    yield made
    await made.publisher.unpublish(made.target)
    assert not made.target.exists()


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


async def test_it_is_said_after_the_files_are_gone_and_nobody_need_hear_it(volume: Volume, secrets: Secrets) -> None:
    await volume.publish(Source("app"))
    secrets.stored["app"] = KeyGone("destroyed")
    files: list[dict[str, bytes]] = []

    async def listening(namespace: str, name: str, token: str, etag: str, cleared: str) -> Opened:
        if cleared:
            files.append(volume.files)
            raise NotReady("nobody answers")
        return await secrets.unseal(namespace, name, token, etag, cleared)

    volume.publisher = Publisher(listening, volume.publisher._pods.parent)
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


async def test_a_plugin_that_starts_anew_takes_over(volume: Volume, secrets: Secrets, tmp_path: Path) -> None:
    await volume.publish(Source("app"))
    before = volume.target.joinpath("..data").readlink()
    volume.publisher = Publisher(secrets.unseal, tmp_path)
    await volume.publish(Source("app"))
    assert volume.target.joinpath("..data").readlink() == before
    secrets.stored["app"] = KeyGone("destroyed")
    volume.publisher = Publisher(secrets.unseal, tmp_path)
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
