"""Authorities and serving certificates over years, with crashes, stale clients and stale replicas."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyshred.policy.certificates import Authority, Do, Leaf, Step, Terms, is_served_and_trusted, next_step

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)
CA_LIFETIME = timedelta(days=365)
TERMS = Terms(
    overlap=timedelta(minutes=5),
    lifetime=timedelta(days=90),
    authority_lifetime=CA_LIFETIME,
    makes_authorities=True,
)
STALE = TERMS.overlap - timedelta(seconds=1)
"""So far behind a client or a replica may be."""


@dataclass
class World:
    """What is stored, and what others saw of it."""

    now: datetime = START
    authorities: list[Authority] = field(default_factory=list)
    leaf: Leaf | None = None
    bundle: frozenset[str] = frozenset()
    bundles: list[tuple[datetime, frozenset[str]]] = field(default_factory=list)
    leaves: list[tuple[datetime, Leaf]] = field(default_factory=list)
    made: int = 0

    def step(self) -> Do:
        wanted = frozenset(a.id for a in self.authorities)
        step = next_step(self.authorities, self.leaf, published=self.bundle == wanted, terms=TERMS, now=self.now)
        match step.do:
            case Do.MAKE_AUTHORITY:
                self.made += 1
                self.authorities.append(Authority(f"ca{self.made}", self.now, self.now + CA_LIFETIME, None, True))
            case Do.DROP:
                self.authorities = [a for a in self.authorities if a.id not in step.of]
            case Do.PUBLISH:
                self.bundle = wanted
                self.bundles.append((self.now, wanted))
            case Do.NOTE_PUBLISHED:
                self.authorities = [replace(a, published=self.now) if a.id in step.of else a for a in self.authorities]
            case Do.ISSUE:
                issuer = next(a for a in self.authorities if a.id == step.of[0])
                self.leaf = Leaf(issuer.id, self.now, min(self.now + TERMS.lifetime, issuer.not_after), True)
                self.leaves.append((self.now, self.leaf))
        return step.do

    def settle(self) -> None:
        for _ in range(20):
            if self.step() is Do.NOTHING:
                return
        raise AssertionError("it never comes to rest")

    def check(self) -> None:
        """Whatever a replica may serve is trusted by whatever a client may hold."""
        seen_leaves = _seen(self.leaves, self.now)
        for bundle in _seen(self.bundles, self.now):
            for leaf in seen_leaves:
                assert leaf.issuer in bundle
        for leaf in seen_leaves:
            assert self.now < leaf.not_after


def _seen(history: "list[tuple[datetime, T]]", now: datetime) -> "list[T]":
    """What somebody may have seen last who is up to STALE behind."""
    recent = [value for when, value in history if when > now - STALE]
    before = [value for when, value in history if when <= now - STALE]
    return before[-1:] + recent


def test_a_first_start_serves_at_once() -> None:
    world = World()
    world.settle()
    assert world.leaf is not None and world.made == 1
    assert is_served_and_trusted(world.authorities, world.leaf, published=True)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40 * 24 * 60), max_size=60))
def test_over_the_years_nobody_ever_meets_a_certificate_that_is_not_trusted(pauses: list[int]) -> None:
    """Pauses of minutes up to 40 days, in any order: the controller may be away for weeks."""
    world = World()
    world.settle()
    world.now += timedelta(minutes=10)
    quiet = [*pauses, *([24 * 60] * 400)]
    for pause in quiet:
        target = world.now + timedelta(minutes=pause)
        # Away for the pause, back for an hour, looking every minute.
        world.now = target
        if world.leaf is not None and world.leaf.not_after <= world.now:
            return  # away for longer than any certificate lasts
        for _ in range(30):
            world.settle()
            world.check()
            world.now += timedelta(minutes=1)
    assert world.made >= 2 and len(world.authorities) <= 3


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 6))
def test_a_crash_between_any_two_steps_changes_nothing(day: int, steps: int) -> None:
    world = World()
    world.settle()
    for _ in range(day):
        world.now += timedelta(days=1)
        world.settle()
    for _ in range(steps):
        world.step()
        world.check()
        world.now += timedelta(seconds=20)
    for _ in range(30):
        world.settle()
        world.check()
        world.now += timedelta(minutes=1)


@pytest.mark.parametrize(
    "change",
    [lambda leaf: replace(leaf, fits=False), lambda leaf: replace(leaf, issuer=""), lambda leaf: None],
    ids=["other names", "a stranger's", "lost"],
)
def test_a_leaf_that_serves_nobody_is_replaced_at_once(change: Callable[[Leaf | None], Leaf | None]) -> None:
    world = World()
    world.settle()
    world.now += timedelta(hours=1)
    world.leaf = change(world.leaf)
    assert world.step() is Do.ISSUE


def test_a_lost_authority_is_followed_by_a_new_one_with_an_overlap() -> None:
    world = World()
    world.settle()
    world.now += timedelta(days=1)
    # All that is left is what the serving Secret says of it, without its key.
    world.authorities = [replace(world.authorities[0], can_issue=False, published=None)]
    old = world.leaf
    world.settle()
    assert world.made == 2 and world.leaf is old
    world.check()
    world.now += TERMS.overlap
    world.settle()
    assert world.leaf is not None and world.leaf.issuer == "ca2"
    world.now += TERMS.overlap
    world.settle()
    assert [a.id for a in world.authorities] == ["ca2"]


def test_what_somebody_took_out_is_put_back() -> None:
    world = World()
    world.settle()
    world.bundle = frozenset()
    assert world.step() is Do.PUBLISH


def test_another_issuers_certificates_come_in_when_they_are_trusted() -> None:
    """cert-manager: a new leaf and a new authority appear together."""
    terms = replace(TERMS, makes_authorities=False)
    old = Authority("a", START, START + CA_LIFETIME, START, False)
    new = Authority("b", START, START + CA_LIFETIME, None, True)
    leaf = Leaf("a", START, START + TERMS.lifetime, False)
    now = START + timedelta(days=1)
    assert next_step([old, new], leaf, published=False, terms=terms, now=now).do is Do.PUBLISH
    assert next_step([old, new], leaf, published=True, terms=terms, now=now).do is Do.NOTE_PUBLISHED
    noted = replace(new, published=now)
    assert next_step([old, noted], leaf, published=True, terms=terms, now=now).do is Do.NOTHING
    later = now + terms.overlap
    step = next_step([old, noted], leaf, published=True, terms=terms, now=later)
    assert (step.do, step.of) == (Do.ISSUE, ("b",))
    assert next_step([], None, published=True, terms=terms, now=now).do is Do.NOTHING
    # Ours to serve is what is there, however old: the other issuer renews it when it wants.
    served = Leaf("b", START, START + TERMS.lifetime, True)
    end = START + TERMS.lifetime - timedelta(hours=1)
    assert next_step([noted], served, published=True, terms=terms, now=end).do is Do.NOTHING


def test_shortened_lifetimes_count_for_what_is_there() -> None:
    world = World()
    world.settle()
    now = world.now + timedelta(days=1)
    short = replace(TERMS, lifetime=timedelta(days=1), authority_lifetime=timedelta(days=9))
    assert next_step(world.authorities, world.leaf, published=True, terms=short, now=now).do is Do.MAKE_AUTHORITY
    lasting = replace(short, authority_lifetime=CA_LIFETIME)
    assert next_step(world.authorities, world.leaf, published=True, terms=lasting, now=now).do is Do.ISSUE


def test_where_all_is_about_to_end_the_next_authority_issues_before_its_overlap_is_over() -> None:
    """From very short lifetimes to long ones: nothing that is trusted for long enough can issue anything that lasts."""
    dying = Authority("old", START, START + timedelta(minutes=3), START - timedelta(hours=1), True)
    young = Authority("new", START, START + CA_LIFETIME, START, True)
    leaf = Leaf("old", START, START + timedelta(minutes=3), True)
    early, late = START + timedelta(minutes=1), START + timedelta(minutes=2, seconds=30)
    assert next_step([dying, young], leaf, published=True, terms=TERMS, now=early).do is Do.NOTHING
    assert next_step([dying, young], leaf, published=True, terms=TERMS, now=late) == Step(Do.ISSUE, ("new",))
