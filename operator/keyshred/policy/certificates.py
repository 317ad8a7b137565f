"""When an authority or a serving certificate is made, published and dropped. No certificate, no key, no clock in here.

The rule behind all of it: whatever certificate a replica may still serve is trusted by whatever bundle a client may
still hold. Both follow within `overlap`, so a new authority is published that long before anything is issued by it, and
an old one is trusted that long after nothing of it is served any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

_RENEW_AFTER: Final = 2 / 3
"""Of a lifetime, as cert-manager does it by default."""
_LAST_MOMENT: Final = 1 / 5
"""Of the overlap: where lifetimes are changed to be longer than what is left, somebody has to be first to trust."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, oldest first in a sequence of them."""

    id: str
    not_before: datetime
    not_after: datetime
    published: datetime | None
    """Since when every place that clients trust by has had it; None: not yet everywhere."""
    can_issue: bool
    """Whether we have its key, or what it issued for us."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The serving certificate that replicas are to serve."""

    issuer: str
    """`id` of the authority; empty: none that is known."""
    issued: datetime
    """Since when it is there for replicas to serve."""
    not_after: datetime
    fits: bool
    """Whether it is for all the names that are wanted, and its key is its own."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say."""

    overlap: timedelta
    lifetime: timedelta
    """Of serving certificates."""
    authority_lifetime: timedelta
    makes_authorities: bool
    """Whether they are ours to make; else somebody else's come along by themselves."""


class Do(StrEnum):
    """What comes next."""

    MAKE_AUTHORITY = "MakeAuthority"
    PUBLISH = "Publish"
    NOTE_PUBLISHED = "NotePublished"
    ISSUE = "Issue"
    DROP = "Drop"
    NOTHING = "Nothing"


@dataclass(frozen=True, slots=True)
class Step:
    """The next thing to do. `of`: authorities that it is about."""

    do: Do
    of: tuple[str, ...] = ()


def next_step(
    authorities: Sequence[Authority], leaf: Leaf | None, *, published: bool, terms: Terms, now: datetime
) -> Step:
    """What to do now; asked again after each step. `published`: every place has the bundle of all `authorities`."""
    live = [a for a in authorities if now < a.not_after]
    newest = live[-1] if live and live[-1].can_issue else None
    if terms.makes_authorities and (newest is None or _is_old(newest, terms, now)):
        return Step(Do.MAKE_AUTHORITY)
    if dead := tuple(a.id for a in authorities if a not in live):
        return Step(Do.DROP, dead)
    if not live:
        return Step(Do.NOTHING)
    if not published:
        return Step(Do.PUBLISH)
    if fresh := tuple(a.id for a in live if a.published is None):
        return Step(Do.NOTE_PUBLISHED, fresh)
    issuer = _issuer(live, leaf, terms, now)
    if issuer is not None and (leaf is None or _is_due(leaf, issuer, terms, now)):
        return Step(Do.ISSUE, (issuer.id,))
    if leaf is not None and now >= leaf.issued + terms.overlap:
        order = [a.id for a in live]
        older = order[: order.index(leaf.issuer)] if leaf.issuer in order else []
        if older:
            return Step(Do.DROP, tuple(older))
    return Step(Do.NOTHING)


def is_served_and_trusted(authorities: Sequence[Authority], leaf: Leaf | None, *, published: bool) -> bool:
    """Whether clients that trust what is published now can verify what is served."""
    return published and leaf is not None and any(a.id == leaf.issuer for a in authorities)


def _is_old(authority: Authority, terms: Terms, now: datetime) -> bool:
    lifetime = authority.not_after - authority.not_before
    if lifetime > terms.authority_lifetime * 2:
        return True  # lifetimes were shortened
    # A leaf of full length has to fit into what is left, when the next authority takes over.
    return now >= min(authority.not_before + lifetime * _RENEW_AFTER, authority.not_after - terms.lifetime)


def _issuer(live: Sequence[Authority], leaf: Leaf | None, terms: Terms, now: datetime) -> Authority | None:
    """The newest that clients trust for long enough; where nothing that is served can be trusted, the newest at all."""
    # What ends within this is as good as gone: by then the next one has to be served.
    soon = now + terms.overlap * _LAST_MOMENT
    able = [a for a in live if a.can_issue and soon < a.not_after]
    settled = [a for a in able if a.published is not None and now >= a.published + terms.overlap]
    works = leaf is not None and soon < leaf.not_after and leaf.issuer in {a.id for a in live}
    candidates = settled if works else settled or able
    return candidates[-1] if candidates else None


def _is_due(leaf: Leaf, issuer: Authority, terms: Terms, now: datetime) -> bool:
    if not terms.makes_authorities:
        return not leaf.fits  # when to renew is the other issuer's to say
    lifetime = leaf.not_after - leaf.issued
    return (
        not leaf.fits
        or leaf.issuer != issuer.id
        or now >= leaf.issued + lifetime * _RENEW_AFTER
        # Lifetimes were shortened: what is out there is not left to live on for long.
        or lifetime > terms.lifetime * 2
    )
