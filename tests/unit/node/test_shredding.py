"""Files of a destroyed key go, whatever has become of the Secret, of the others in the volume and of the driver."""

from pathlib import Path

import pytest

from keyshred.errors import CannotOpen, KeyGone, KeyNotUsable, KeyshredError, NotFound, NotReady
from keyshred.node.holdings import Holding, Holdings
from keyshred.node.holdings import Volume as Known
from keyshred.policy.volumes import Files, Item, Source
from tests.unit.node import SYS_ADMIN, may
from tests.unit.node.publishing import Secrets, Volume

pytestmark = pytest.mark.skipif(not may(SYS_ADMIN), reason="mounting needs CAP_SYS_ADMIN")

GONE = {"deleted": None, "no longer authorised": KeyNotUsable("not authorised"), "damaged": CannotOpen()}


@pytest.mark.parametrize("now", GONE.values(), ids=GONE.keys())
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("optional", [False, True])
async def test_what_is_not_answered_for_any_more_goes_with_its_key(
    volume: Volume, secrets: Secrets, now: KeyshredError | None, restarted: bool, optional: bool
) -> None:
    sources = Source("app", optional=optional), Source("db")
    secrets.keys["app"] = "key-1"
    await volume.publish(*sources)
    if now is None:
        del secrets.stored["app"]
    else:
        secrets.stored["app"] = now
    if restarted:
        volume.start_anew()
    if now is not None or not optional:
        with pytest.raises((NotFound, KeyshredError)):
            await volume.publish(*sources)
        assert volume.files == {"a": b"one", "b": b"two", "c": b"three"}, "its key is there: as the kubelet has it"
    secrets.destroyed.add("key-1")
    with volume.target.joinpath("c").open("rb") as kept:
        await volume.publish(*sources)
        assert volume.files == {"c": b"three"} and kept.read() == b"three"
    await volume.publish(*sources)
    assert volume.files == {"c": b"three"}
    secrets.stored["app"] = {"a": b"made anew"}
    await volume.publish(*sources)
    assert volume.files == {"a": b"made anew", "c": b"three"}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("error", [NotReady("nobody answers"), KeyNotUsable("suspended")])
async def test_another_secret_that_is_refused_keeps_no_value_of_a_destroyed_key(
    volume: Volume, secrets: Secrets, restarted: bool, error: KeyshredError
) -> None:
    sources = Source("app"), Source("db")
    await volume.publish(*sources)
    db, secrets.stored["db"] = secrets.stored["db"], error
    secrets.stored["app"] = KeyGone("destroyed")
    if restarted:
        volume.start_anew()
    for _ in range(2):
        with pytest.raises(type(error)):
            await volume.publish(*sources)
        assert volume.files == {"a": b"", "b": b"", "c": b"three"}
    assert secrets.cleared == [], "they are not removed yet"
    secrets.stored["db"] = db
    await volume.publish(*sources)
    assert volume.files == {"c": b"three"} and secrets.cleared == [("app", "v")]


async def test_a_path_that_two_secrets_have_stays_with_the_one_that_won(volume: Volume, secrets: Secrets) -> None:
    sources = Source("app", (Item("a", "same"), Item("b", "own"))), Source("db", (Item("c", "same"),)), Source("x")
    secrets.stored["x"] = {"x": b"1"}
    await volume.publish(*sources)
    secrets.stored |= {"app": KeyGone("destroyed"), "x": NotReady("nobody answers")}
    with pytest.raises(NotReady):
        await volume.publish(*sources)
    assert volume.files == {"same": b"three", "own": b"", "x": b"1"}


async def test_a_secret_that_moved_to_another_key_is_asked_about_until_the_first_is_gone(
    volume: Volume, secrets: Secrets
) -> None:
    secrets.keys["app"] = "key-1"
    await volume.publish(Source("app"))
    secrets.keys["app"], secrets.stored["app"] = "key-2", {"a": b"new"}
    await volume.publish(Source("app"))
    assert ("key-1", "is destroyed?") in secrets.asked
    secrets.destroyed.add("key-1")
    await volume.publish(Source("app"))
    assert volume.files == {"a": b"new"}
    secrets.asked.clear()
    await volume.publish(Source("app"))
    assert [name for name, _ in secrets.asked] == ["app"]


async def test_nobody_answers_about_the_key(volume: Volume, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.keys["app"] = "key-1"
    await volume.publish(Source("app"))
    del secrets.stored["app"]

    async def away(key_id: str, token: str) -> bool:
        raise NotReady("nobody answers")

    with monkeypatch.context() as patched:
        patched.setattr(secrets, "is_destroyed", away)
        with pytest.raises(NotFound):
            await volume.publish(Source("app"))
    assert volume.files == {"a": b"one", "b": b"two"}


# --- what is kept of volumes beyond the process


def test_no_value_and_no_hash_of_one_is_kept(tmp_path: Path) -> None:
    holdings = Holdings(tmp_path / "known")
    holdings.save(target := tmp_path / "mount", {"app": Holding(frozenset({"a"}), ("key-1",))}, {"db"})
    [file] = (tmp_path / "known").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == (
        f'{{"target": "{target}", "secrets": {{"app": {{"paths": ["a"], "keys": ["key-1"]}}}}, "gone": ["db"]}}'
    )
    holdings.load(target, known := Known(Files(()), None))
    assert (known.held, known.gone) == ({"app": Holding(frozenset({"a"}), ("key-1",))}, frozenset({"db"}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"secrets": 1}', '{"secrets": {"a": {"paths": 1}}, "gone": []}'])
def test_a_file_that_cannot_be_read_is_as_none(tmp_path: Path, text: str) -> None:
    holdings = Holdings(tmp_path)
    holdings.save(tmp_path / "mount", {}, ())
    [file] = tmp_path.iterdir()
    file.write_text(text)
    holdings.load(tmp_path / "mount", known := Known(Files(()), None))
    assert (known.held, known.gone) == ({}, frozenset())


def test_files_of_volumes_that_are_gone_are_swept(tmp_path: Path) -> None:
    holdings = Holdings(tmp_path / "known")
    holdings.sweep()
    (there := tmp_path / "there").mkdir()
    for target in (there, tmp_path / "gone"):
        holdings.save(target, {}, ())
    (tmp_path / "known" / "half.new").write_text("{")
    holdings.sweep()
    assert len(list((tmp_path / "known").iterdir())) == 1
    holdings.remove(there)
    holdings.remove(there)
    assert list((tmp_path / "known").iterdir()) == []


def test_keys_of_one_secret_are_remembered_to_a_bound() -> None:
    held = Holding()
    for n in range(20):
        held = held.after(frozenset(), f"key-{n}")
    assert held.key_ids == tuple(f"key-{n}" for n in range(12, 20))
    assert held.after(frozenset(), "key-12").key_ids[-1] == "key-12"
    assert held.after(frozenset(), "").key_ids == held.key_ids
