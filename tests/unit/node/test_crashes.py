"""Who reads beside the writer, or after it died, sees the old files or the new ones."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from keyshred.node.atomic_writer import write
from keyshred.node.payload import File
from tests.unit.node import A, B, check_scheme, data

NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FILES = st.builds(File, st.sampled_from([b"", b"1", b"22", b"22" * 4000]), st.sampled_from([0o400, 0o644, 0o777]))


def _without_clashes(payload: dict[str, File]) -> dict[str, File]:
    return {p: f for p, f in payload.items() if not any(str(parent) in payload for parent in Path(p).parents)}


PAYLOADS = st.dictionaries(PATHS, FILES, max_size=5).map(_without_clashes)


@contextlib.contextmanager
def fresh() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        (volume := Path(made, "mount")).mkdir()
        yield volume


@given(st.lists(PAYLOADS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_the_last_payload_is_exactly_what_is_there(payloads: list[dict[str, File]]) -> None:
    with fresh() as volume:
        last: dict[str, File] | None = None
        for payload in payloads:
            assert write(volume, payload, None) == (payload != last)
            check_scheme(volume, payload)
            last = payload


class Crash(BaseException):
    """The process is gone: nothing runs after it."""


@contextlib.contextmanager
def crashing(after: int, each: Callable[[], None]) -> Iterator[None]:
    """Runs `each` before every change of the file system; after so many, none happens any more."""
    calls = iter(range(after))

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if original is os.open and not args[1] & os.O_CREAT:
                return original(*args, **more)
            if next(calls, None) is None:
                raise Crash
            with pytest.MonkeyPatch.context() as inner:
                for name, saved in originals.items():
                    inner.setattr(os, name, saved)
                each()
            return original(*args, **more)

        return call

    changes = ("open", "mkdir", "write", "fchmod", "symlink", "replace", "unlink", "rmdir")
    originals = {name: getattr(os, name) for name in changes}
    with pytest.MonkeyPatch.context() as patch:
        for name, original in originals.items():
            patch.setattr(os, name, wrap(original))
        try:
            yield
        except Crash:
            event("crashed")


@given(PAYLOADS, PAYLOADS, PAYLOADS, st.integers(0, 40))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_crash_anywhere_leaves_old_or_new_and_the_next_write_mends_it(
    old: dict[str, File], new: dict[str, File], last: dict[str, File], after: int
) -> None:
    with fresh() as volume:
        write(volume, old, None)

        def old_or_new() -> None:
            assert data(volume) in (old, new)

        with crashing(after, old_or_new):
            write(volume, new, None)
        old_or_new()
        write(volume, last, None)
        check_scheme(volume, last)


@given(PAYLOADS, st.integers(0, 40))
@settings(deadline=None, max_examples=50)
def test_a_crash_of_the_first_write_is_mended(payload: dict[str, File], after: int) -> None:
    with fresh() as volume:
        with crashing(after, lambda: None):
            write(volume, A, None)
        write(volume, payload, None)
        check_scheme(volume, payload)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (made := tmp_path / "mount").mkdir()
    made.chmod(0o1777)
    return made


def test_a_write_that_fails_takes_its_own_away(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(volume, A, None)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write(volume, B, None)
    check_scheme(volume, A)


def test_a_reader_beside_the_writer_never_sees_a_mixture(volume: Path) -> None:
    old = {f"f{n}": File(b"old", 0o644) for n in range(20)}
    new = {f"f{n}": File(b"new", 0o644) for n in range(20)}
    write(volume, old, None)
    done, seen = threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            # The old files can go while a reader is on the way to them, as with the kubelet.
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
                generation = os.open(volume / "..data", os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, generation)
                found = set()
                for n in range(20):
                    file = os.open(f"f{n}", os.O_RDONLY, dir_fd=generation)
                    stack.callback(os.close, file)
                    found.add(os.read(file, 10))
                seen.add(frozenset(found))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        write(volume, new, None)
        write(volume, old, None)
    done.set()
    reader.join()
    assert seen <= {frozenset({b"old"}), frozenset({b"new"})}
    assert seen
