"""Token URIs (RFC 7512)."""

import contextlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.errors import Malformed
from keyshred.hsm.uri import TokenUri, parse, with_serial

QUERY = "?module-path=/lib/p11.so&pin-source=file:/run/pin"


def test_all_that_a_uri_may_say() -> None:
    uri = (
        "pkcs11:token=My%20token;serial=0a%3B1;manufacturer=A&B;model=m;slot-id=42;slot-description=d;"
        "slot-manufacturer=s?pin-source=file:/run/a%20pin&module-path=/usr/lib/p11.so"
    )
    assert parse(uri) == TokenUri(
        module_path=Path("/usr/lib/p11.so"),
        pin_source=Path("/run/a pin"),
        token="My token",
        serial="0a;1",
        manufacturer="A&B",
        model="m",
        slot_id=42,
        slot_description="d",
        slot_manufacturer="s",
    )


@pytest.mark.parametrize("source", ["file:/run/pin", "file:///run/pin", "/run/pin", "file:%2Frun%2Fpin"])
def test_a_pin_source_is_a_file(source: str) -> None:
    assert parse(f"pkcs11:token=t?module-path=/m&pin-source={source}").pin_source == Path("/run/pin")


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("", "pkcs11:"),
        ("PKCS11:token=t" + QUERY, "pkcs11:"),
        ("pkcs11:" + QUERY, "neither token nor serial"),
        ("pkcs11:slot-id=1" + QUERY, "neither token nor serial"),
        ("pkcs11:token=t;token=t" + QUERY, "token: given twice"),
        ("pkcs11:token=t" + QUERY + "&module-path=/b", "module-path: given twice"),
        ("pkcs11:token=t;" + QUERY, "attribute 2 of the path"),
        ("pkcs11:token" + QUERY, "attribute 1 of the path"),
        ("pkcs11:token=t;x-vendor=1" + QUERY, "x-vendor: not an attribute"),
        ("pkcs11:token=t;module-path=a" + QUERY, "module-path: not an attribute"),
        ("pkcs11:token=t" + QUERY + "&pin-sauce=/x", "pin-sauce: not an attribute"),
        ("pkcs11:token=t;object=o" + QUERY, "object: names an object"),
        ("pkcs11:token=t;id=%01" + QUERY, "id: names an object"),
        ("pkcs11:token=a b" + QUERY, "token: holds a character"),
        ("pkcs11:token=a/b" + QUERY, "token: holds a character"),
        ("pkcs11:token=ä" + QUERY, "token: holds a character"),
        ("pkcs11:token=%2" + QUERY, "token: holds a character"),
        ("pkcs11:token=%zz" + QUERY, "token: holds a character"),
        ("pkcs11:token=a%00" + QUERY, "token: holds a NUL"),
        ("pkcs11:token=%ff" + QUERY, "token: not UTF-8"),
        ("pkcs11:token=t;slot-id=0x1" + QUERY, "slot-id: not a decimal"),
        ("pkcs11:token=t;slot-id=01" + QUERY, "slot-id: not a decimal"),
        ("pkcs11:token=t;slot-id=" + QUERY, "slot-id: not a decimal"),
        ("pkcs11:token=t", "module-path: missing"),
        ("pkcs11:token=t?", "module-path: missing"),
        ("pkcs11:token=t?module-path=/m", "pin-source: missing"),
        ("pkcs11:token=t?module-path=p11.so&pin-source=/p", "module-path: not an absolute path"),
        ("pkcs11:token=t?module-path=file:/m&pin-source=/p", "module-path: not an absolute path"),
        ("pkcs11:token=t?module-path=/m&pin-source=pin", "pin-source: not an absolute path"),
        ("pkcs11:token=t?module-path=/m&pin-source=|/bin/pin", "pin-source: not an absolute path"),
        ("pkcs11:token=t?module-path=/m&pin-source=file://host/pin", "pin-source: not an absolute path"),
        ("pkcs11:token=t#x" + QUERY, "token: holds a character"),
    ],
)
def test_what_is_refused_and_why(uri: str, complaint: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(uri)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["?pin-value=hunter2", "?pin-source=hunter2", "?hunter2", "?pin-value:hunter2=", ";hunter2"]
)
def test_a_pin_in_the_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse("pkcs11:token=t" + uri)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and text.isprintable()))
def test_any_label_survives_its_encoding(label: str) -> None:
    assert parse(f"pkcs11:token={quote(label, safe='')}{QUERY}").token == label


@given(st.text())
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    for uri in (text, "pkcs11:" + text, f"pkcs11:token={text}{QUERY}", f"pkcs11:token=t{QUERY}{text}"):
        with contextlib.suppress(Malformed):
            parse(uri)


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and text.isprintable()))
def test_a_serial_can_be_added(serial: str) -> None:
    for uri in (f"pkcs11:token=t{QUERY}", f"pkcs11:token=t;model=m{QUERY}"):
        assert parse(with_serial(uri, serial)) == replace(parse(uri), serial=serial)
