"""What a sealed value and a wrapped DEK are bound to, as bytes (docs/envelope-format.md, sections 3, 5 and 6).

Every part has a fixed length or a length before it, so that two different contexts never give the same bytes.
"""

import re
import uuid
from dataclasses import dataclass
from typing import Final

from keyshred.errors import Malformed

PREFIX: Final = b"KSH1"
MAX_KEY_VERSION: Final = 2**32 - 1

_WRAP_PREFIX: Final = b"KSHW1"
_DNS_LABEL: Final = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAMESPACE: Final = re.compile(_DNS_LABEL)
_NAME: Final = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_DATA_KEY: Final = re.compile(r"(?!\.(?:\.|\Z))[-._a-zA-Z0-9]+")


@dataclass(frozen=True, slots=True)
class Context:
    """The Secret that values are sealed for. Raises Malformed where Kubernetes would refuse the names.

    namespace: an RFC 1123 label, 1 to 63 bytes; name: an RFC 1123 subdomain, 1 to 253 bytes.
    """

    key_id: uuid.UUID
    namespace: str
    name: str

    def __post_init__(self) -> None:
        _check("namespace", self.namespace, _NAMESPACE, 63)
        _check("name", self.name, _NAME, 253)

    def encode(self) -> bytes:
        """ctx: key ID (16 bytes, network order), then namespace and name with their lengths."""
        return self.key_id.bytes + _with_length(self.namespace) + _with_length(self.name)


def value_aad(ctx: bytes, data_key: str) -> bytes:
    """AAD of one value: `ctx` from Context.encode, `data_key` its key in `data`.

    Raises Malformed where Kubernetes would refuse the data key (1 to 253 bytes of `-._a-zA-Z0-9`, no leading "..").
    """
    _check("data key", data_key, _DATA_KEY, 253)
    return PREFIX + ctx + _with_length(data_key)


def wrap_aad(key_id: uuid.UUID, key_version: int) -> bytes:
    """AAD of the wrap of a DEK, where the mechanism takes one (25 bytes). Raises Malformed for a bad version."""
    if not 1 <= key_version <= MAX_KEY_VERSION:
        raise Malformed("key version is not between 1 and 2^32 - 1")
    return _WRAP_PREFIX + key_id.bytes + key_version.to_bytes(4, "big")


def _check(field: str, text: str, shape: re.Pattern[str], max_length: int) -> None:
    if len(text) > max_length or not shape.fullmatch(text):
        raise Malformed(f"{field} is not a valid Kubernetes name")


def _with_length(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw
