"""A reader as the specification has it, with AES keys in memory where the HSM would be."""

import uuid
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from keyshred.envelope.context import Context, wrap_aad
from keyshred.envelope.format import Envelope, Mechanism, parse
from keyshred.envelope.seal import ValueKeys, unlock
from keyshred.errors import CannotOpen

RootKeys = Callable[[uuid.UUID, int], bytes]


def wrap(root_keys: RootKeys, mechanism: Mechanism, key_id: uuid.UUID, version: int, dek: bytes) -> bytes:
    """Stands in for the HSM's wrap; the IV is fixed."""
    root_key = root_keys(key_id, version)
    if mechanism is Mechanism.AES_KWP:
        return aes_key_wrap_with_padding(root_key, dek)
    iv = bytes(range(12))
    return iv + AESGCM(root_key).encrypt(iv, dek, wrap_aad(key_id, version))


def unwrap(root_keys: RootKeys, envelope: Envelope) -> bytes:
    """Stands in for the HSM's unwrap."""
    root_key, wrapped = root_keys(envelope.key_id, envelope.key_version), envelope.wrapped_dek
    try:
        if envelope.mechanism is Mechanism.AES_KWP:
            return aes_key_unwrap_with_padding(root_key, wrapped)
        aad = wrap_aad(envelope.key_id, envelope.key_version)
        return AESGCM(root_key).decrypt(wrapped[:12], wrapped[12:], aad)
    except (InvalidTag, InvalidUnwrap):
        raise CannotOpen from None


def value_keys(root_keys: RootKeys, namespace: str, name: str, text: str) -> ValueKeys:
    """The keys for the values of the Secret `namespace`/`name` that carries the annotation `text`."""
    envelope = parse(text)
    if envelope.context != Context(envelope.key_id, namespace, name):
        raise CannotOpen
    return unlock(unwrap(root_keys, envelope), envelope)
