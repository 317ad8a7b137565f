"""Durations in Go's format."""

from datetime import timedelta

import pytest

from keyshred.errors import Malformed
from keyshred.policy import durations
from keyshred.policy.durations import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", timedelta()),
        ("72h", timedelta(days=3)),
        ("1h30m0.5s", timedelta(hours=1, minutes=30, milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        ("5ms7us", timedelta(microseconds=5007)),
        ("100ms2m", timedelta(minutes=2, milliseconds=100)),
        # Never shorter than what was asked for.
        ("1ns", timedelta(microseconds=1)),
        ("87600h", timedelta(hours=87600)),
    ],
)
def test_parsing(text: str, expected: timedelta) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", "5", "1d", "-1s", "1 h", "1h ", "1h\n", "h", "9999999999h" * 4])
def test_what_is_none(text: str) -> None:
    with pytest.raises(Malformed):
        parse(text)


@pytest.mark.parametrize("text", ["0s", "59s", "1m0s", "1h0m0s", "72h0m1s"])
def test_text_is_what_go_prints(text: str) -> None:
    assert durations.text(durations.parse(text)) == text
