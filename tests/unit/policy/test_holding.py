"""What is held."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from keyshred.envelope.format import Born
from keyshred.policy.found import Found, Holder, Sealed
from keyshred.policy.holding import MAX_HELD, MAX_TEXT, read, still_held, write

ALL = frozenset({"*"})
PLAIN = Found("Opaque", {}, 1, None, going=False, perhaps_immutable=False, version="1")
SEALED = PLAIN._replace(sealed=Sealed(UUID(int=1), 1, Born.SEALED, datetime(2026, 1, 1, tzinfo=UTC)))


def pods(*names: str) -> dict[str, Holder]:
    return {"p": Holder(frozenset(names), "Pod p"), "q": Holder(frozenset(), "Pod q")}


@pytest.mark.parametrize(("text", "names"), [(None, set()), ("", set()), ("*", {"*"}), ("a,b", {"a", "b"})])
def test_the_annotation(text: str | None, names: set[str]) -> None:
    assert read(text) == names
    assert write(names) == (text or None)


def test_what_pods_read_natively_is_held() -> None:
    secrets = {"plain": PLAIN, "unread": PLAIN, "sealed": SEALED}
    assert still_held(ALL, pods("plain", "sealed", "not-there"), secrets) == {"plain", "not-there"}


def test_names_only_leave() -> None:
    before = frozenset({"gone", "read", "sealed"})
    assert still_held(before, pods("read", "new", "sealed"), {"sealed": SEALED}) == {"read"}
    assert still_held(before, {}, {}) == frozenset()


@pytest.mark.parametrize(("count", "length"), [(MAX_HELD, 10), (MAX_HELD + 1, 10), (MAX_TEXT // 254 + 1, 253)])
def test_too_many_names_hold_everything(count: int, length: int) -> None:
    names = [f"{n:0{length}}" for n in range(count)]
    fits = count * (length + 1) - 1 <= MAX_TEXT and count <= MAX_HELD
    assert still_held(ALL, pods(*names), {}) == (frozenset(names) if fits else ALL)
