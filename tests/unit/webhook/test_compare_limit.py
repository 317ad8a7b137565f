"""How often one user may learn that a guess was wrong."""

from keyshred.webhook import compare_limit
from keyshred.webhook.compare_limit import CompareLimit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_after_the_last_miss_no_more() -> None:
    limit = CompareLimit(2, Clock())
    for _ in range(2):
        assert limit.allows("u", "ns", "s")
        limit.miss("u", "ns", "s")
    assert not limit.allows("u", "ns", "s")


def test_counted_by_user_and_secret() -> None:
    limit = CompareLimit(1, Clock())
    limit.miss("u", "ns", "s")
    assert not limit.allows("u", "ns", "s")
    assert limit.allows("v", "ns", "s")
    assert limit.allows("u", "other", "s")
    assert limit.allows("u", "ns", "t")


def test_all_users_together_have_a_limit_too() -> None:
    """A forged review names any user it likes."""
    limit = CompareLimit(2, Clock())
    for n in range(20):
        assert limit.allows(f"u{n}", "ns", "s")
        limit.miss(f"u{n}", "ns", "s")
    assert not limit.allows("u20", "ns", "s")
    assert limit.allows("u20", "ns", "t")


def test_an_hour_later() -> None:
    clock = Clock()
    limit = CompareLimit(2, clock)
    limit.miss("u", "ns", "s")
    clock.now += 1800
    limit.miss("u", "ns", "s")
    clock.now += 1800
    assert not limit.allows("u", "ns", "s")
    clock.now += 1
    assert limit.allows("u", "ns", "s")


def test_none_allowed_means_none() -> None:
    limit = CompareLimit(0, Clock())
    assert not limit.allows("u", "ns", "s")
    limit.miss("u", "ns", "s")
    assert not limit.allows("u", "ns", "s")


def test_memory_is_bounded() -> None:
    limit = CompareLimit(2, Clock())
    for n in range(compare_limit._MAX_TRACKED // 2):  # each for its user and for all
        limit.miss("u", "ns", f"s{n}")
    # One that is tracked already pushes nobody out, itself least of all.
    limit.miss("u", "ns", "s0")
    assert not limit.allows("u", "ns", "s0")
    limit.miss("u", "ns", "new")
    assert len(limit._misses) == compare_limit._MAX_TRACKED
    assert limit.allows("u", "ns", "s0")
