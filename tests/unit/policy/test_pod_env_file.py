"""What an env file carries comes out of the kubelet's parser as it went in; anything else is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.policy.env_file import render, unfit

_BUFFER = 64 * 1024


def kubelet_reads(content: bytes) -> bytes:
    """Kubernetes, pkg/kubelet/util/env/env_util.go, for a file with one variable. ValueError: it gives up."""
    lines = content.split(b"\n")
    assert lines.pop() == b""
    if any(len(line) + 1 > _BUFFER for line in lines):
        raise ValueError("bufio.Scanner: token too long")
    # bufio.ScanLines drops a carriage return before the line's end.
    value, quote, rest = b"\n".join(line.removesuffix(b"\r") for line in lines).removeprefix(b"V='").partition(b"'")
    if not quote or rest:
        raise ValueError("content after the closing quote")
    return value


@given(st.binary() | st.text().map(str.encode))
def test_what_fits_arrives(value: bytes) -> None:
    if not unfit(value):
        assert kubelet_reads(render(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"hunter2",
        b"\n",
        b"\n\na\n\n",
        b"  spaces\t",
        b"# no comment",
        b"a=b",
        b'$HOME `id` \\n "',
        "ö".encode(),
        b"x" * (_BUFFER - 5),
        b"\n".join([b"x" * 60000] * 10),
    ],
    ids=lambda v: repr(v[:20]),
)
def test_what_fits(value: bytes) -> None:
    assert unfit(value) == ""
    assert kubelet_reads(render(value)) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"it's", "single quote"),
        (b"a\r\nb", "carriage return"),
        (b"a\rb", "carriage return"),
        (b"a\r", "carriage return"),
        (b"a\0b", "NUL"),
        (b"\xff\xfe", "UTF-8"),
        (b"x" * _BUFFER, "64 KiB"),
        (b"a\n" + b"x" * _BUFFER + b"\nb", "64 KiB"),
    ],
    ids=lambda v: repr(v[:20]),
)
def test_what_does_not_fit(value: bytes, reason: str) -> None:
    assert reason in unfit(value)
