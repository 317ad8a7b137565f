"""Lines of the log: their form, and what they never hold."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyshred.observe import logs

BASE64URL = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=12, max_size=200)
WORDS = st.text("abcdefghijklmnopqrstuvwxyz ,.:/'\"={}", max_size=40)
PLAIN = "the HSM did not answer in 3.0 s: token keyshred, key 6f1b2c3d-0000-4000-8000-000000000001, Secret ns/name"


@given(WORDS, BASE64URL, BASE64URL, BASE64URL, WORDS)
def test_a_bearer_token_is_never_shown(before: str, header: str, payload: str, signature: str, after: str) -> None:
    token = f"eyJ{header}.{payload}.{signature}"
    assume(not any(said in before + after for said in (payload, header + signature)))
    assert payload not in logs.redact(f"{before} {token} {after}")
    opaque = header + signature
    assert opaque not in logs.redact(f"{before} Authorization: Bearer {opaque} {after}")


@given(WORDS, BASE64URL, WORDS)
def test_a_pin_a_key_and_a_sealed_value_are_never_shown(before: str, secret: str, after: str) -> None:
    assume(secret not in before + after)
    private = f"-----BEGIN EC PRIVATE KEY-----\n{secret}\n-----END EC PRIVATE KEY-----"
    for text in (f"pkcs11:token=t?pin-value={secret}", private, f"S1NIM{secret * 2}", f"KSH1{secret * 2}"):
        assert secret not in logs.redact(f"{before} {text} {after}")


def test_what_is_no_secret_stays() -> None:
    assert logs.redact(PLAIN) == PLAIN


@pytest.fixture(params=["text", "json"])
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a configured process writes to stderr; all as it was afterwards."""
    root, hook = logging.getLogger(), sys.excepthook
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("INFO", request.param)
    yield stream
    logging.captureWarnings(False)
    sys.excepthook = hook
    root.handlers[:], root.level = before[0], before[1]


def _fail() -> None:
    raise ValueError("swordfish")


def test_an_exception_is_cut_to_type_and_place(said: io.StringIO) -> None:
    try:
        _fail()
    except ValueError:
        logging.getLogger("some.library").exception("it failed")
    text = said.getvalue()
    assert "swordfish" not in text and "ValueError" in text and "test_logs.py" in text and "it failed" in text


def test_an_error_that_nobody_caught_too(said: io.StringIO) -> None:
    try:
        _fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    assert "swordfish" not in said.getvalue() and "ValueError" in said.getvalue()


def test_json_is_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.LogRecord("keyshred.x", logging.WARNING, "f", 1, "two\nlines of %s", ("text",), None)
    line = logs.JsonFormatter().format(record)
    parsed = json.loads(line)
    assert "\n" not in line
    assert parsed["message"] == "two\nlines of text"
    assert (parsed["level"], parsed["logger"]) == ("WARNING", "keyshred.x")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", parsed["time"])
