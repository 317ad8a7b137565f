"""Durations as a spec has them: Go's format, within the pattern of the schema."""

import re
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final

from keyshred.errors import Malformed

_PART: Final = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,9})?)(ns|us|ms|s|m|h)")
_MICROSECONDS: Final = {
    "ns": Decimal("0.001"),
    "us": Decimal(1),
    "ms": Decimal(1000),
    "s": Decimal(10**6),
    "m": Decimal(60 * 10**6),
    "h": Decimal(3600 * 10**6),
}


def parse(text: str) -> timedelta:
    """ "1h30m" as a timedelta, rounded up to microseconds. Raises Malformed for what the schema would have refused."""
    if not re.fullmatch(f"({_PART.pattern})+", text):
        raise Malformed(f"{text[:32]!r} is no duration: write one such as 72h or 1h30m")
    total = sum((Decimal(number) * _MICROSECONDS[unit] for number, unit in _PART.findall(text)), Decimal(0))
    try:
        return timedelta(microseconds=int(total.to_integral_value(ROUND_CEILING)))
    except OverflowError:
        raise Malformed(f"{text[:32]!r} is too long a duration") from None


def text(duration: timedelta) -> str:
    """Such as 72h0m0s: what Go prints, down to whole seconds."""
    minutes, seconds = divmod(int(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
