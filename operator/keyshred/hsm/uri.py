"""Token URIs: `pkcs11:token=NAME?module-path=/usr/lib/….so&pin-source=file:/run/…/pin` (RFC 7512).

Stricter than the RFC where being lax would pick another token than the writer meant: unknown attributes and attributes
that name an object are refused, and so is a PIN in the URI.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from keyshred.errors import Malformed

_SCHEME: Final = "pkcs11:"
# RFC 7512, section 2.3: pk11-pchar and pk11-qchar without the separators.
_PCHAR: Final = r"A-Za-z0-9\-._~:\[\]@!$'()*+,="
_PATH_VALUE: Final = re.compile(rf"(?:[{_PCHAR}&]|%[0-9A-Fa-f]{{2}})*")
_QUERY_VALUE: Final = re.compile(rf"(?:[{_PCHAR}/?|]|%[0-9A-Fa-f]{{2}})*")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")

_PATH_FIELDS: Final = {
    "token": "token",
    "serial": "serial",
    "manufacturer": "manufacturer",
    "model": "model",
    "slot-id": "slot_id",
    "slot-description": "slot_description",
    "slot-manufacturer": "slot_manufacturer",
}
_OBJECT_ATTRIBUTES: Final = frozenset({"object", "type", "id"})
_QUERY_ATTRIBUTES: Final = frozenset({"module-path", "pin-source"})


@dataclass(frozen=True, slots=True)
class TokenUri:
    """What a token URI says; None where it says nothing. A token must match all that is given."""

    module_path: Path
    pin_source: Path
    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None
    slot_description: str | None = None
    slot_manufacturer: str | None = None


def parse(text: str) -> TokenUri:
    """Read a token URI. Raises Malformed; the message names the attribute and never repeats a value."""
    if not text.startswith(_SCHEME):
        raise Malformed('token URI: does not start with "pkcs11:"')
    path, mark, query = text.removeprefix(_SCHEME).partition("?")
    found = _attributes(path, ";", _PATH_VALUE, "path")
    asked = _attributes(query, "&", _QUERY_VALUE, "query") if mark else {}

    if "pin-value" in asked:
        raise Malformed("token URI: pin-value: a PIN in a URI ends up in process lists and logs; use pin-source")
    if names_object := _OBJECT_ATTRIBUTES & found.keys():
        raise Malformed(f"token URI: {min(names_object)}: names an object, and a token is asked for")
    unknown = (found.keys() - _PATH_FIELDS.keys()) | (asked.keys() - _QUERY_ATTRIBUTES)
    if unknown:
        raise Malformed(f"token URI: {min(unknown)}: not an attribute that keyshred knows")
    if not (found.keys() & {"token", "serial"}):
        raise Malformed("token URI: neither token nor serial is given, so that any token would match")
    slot_id = found.pop("slot-id", None)
    return TokenUri(
        module_path=_file("module-path", asked.get("module-path")),
        pin_source=_file("pin-source", asked.get("pin-source")),
        slot_id=None if slot_id is None else _number("slot-id", slot_id),
        **{_PATH_FIELDS[name]: value for name, value in found.items()},
    )


def with_serial(text: str, serial: str) -> str:
    """The token URI, which names no serial, with this one."""
    path, mark, query = text.partition("?")
    separator = "" if path == _SCHEME else ";"
    return f"{path}{separator}serial={quote(serial, safe='')}{mark}{query}"


def _attributes(part: str, separator: str, value_shape: re.Pattern[str], where: str) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for item in part.split(separator) if part else []:
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9\-_]+", name):
            # The item may be a mistyped PIN: only its place is told.
            raise Malformed(f"token URI: attribute {len(attributes) + 1} of the {where} is not NAME=VALUE")
        if name in attributes:
            raise Malformed(f"token URI: {name}: given twice")
        if not value_shape.fullmatch(value):
            raise Malformed(f"token URI: {name}: holds a character that must be percent-encoded, or a bad escape")
        attributes[name] = _decode(name, value)
    return attributes


def _decode(name: str, value: str) -> str:
    raw = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), value.encode())
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Malformed(f"token URI: {name}: not UTF-8") from None
    if "\0" in text:
        raise Malformed(f"token URI: {name}: holds a NUL")
    return text


def _file(name: str, value: str | None) -> Path:
    if value is None:
        raise Malformed(f"token URI: {name}: missing")
    if name == "pin-source":
        value = value.removeprefix("file:")
        # RFC 8089: the empty authority of file:///path.
        value = value[2:] if value.startswith("///") else value
    # A relative module would be looked up along the loader's path: whoever can write there gets the PIN.
    if not value.startswith("/") or value.startswith("//"):
        raise Malformed(f"token URI: {name}: not an absolute path")
    return Path(value)


def _number(name: str, value: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", value):
        raise Malformed(f"token URI: {name}: not a decimal number")
    return int(value)
