"""Wrapping and unwrapping DEKs."""

import ctypes
import secrets
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pkcs11 import Attribute

from keyshred.envelope.context import wrap_aad
from keyshred.envelope.format import WRAPPED_SIZE, Mechanism
from keyshred.errors import CannotOpen, ConfigInvalid
from keyshred.hsm import uri as token_uri
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from tests.cluster.softhsm import SoftHsm
from tests.contract.conftest import Token, Wrapped
from tests.contract.stranger import token_of


async def test_a_dek_comes_back(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped) -> None:
    assert len(wrapped.data) == WRAPPED_SIZE[token.mechanism]
    assert wrapped.dek not in wrapped.data
    assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek


async def test_no_iv_is_used_twice(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped) -> None:
    if token.mechanism is not Mechanism.AES_GCM:
        pytest.skip("KWP has no IV: the same DEK gives the same bytes")
    ivs = {(await hsm.wrap(ref, token.mechanism, wrapped.dek))[:12] for _ in range(200)}
    assert len(ivs) == 200


async def test_every_changed_byte_is_refused(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped) -> None:
    for place in range(len(wrapped.data)):
        changed = bytearray(wrapped.data)
        changed[place] ^= 1
        with pytest.raises(CannotOpen):
            await hsm.unwrap(ref, token.mechanism, bytes(changed))
    assert await hsm.unwrap(ref, token.mechanism, wrapped.data) == wrapped.dek


async def test_every_other_length_is_refused(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped) -> None:
    for data in (b"", wrapped.data[:-1], wrapped.data[1:], wrapped.data + b"\0", bytes(4096)):
        with pytest.raises(CannotOpen):
            await hsm.unwrap(ref, token.mechanism, data)


async def test_a_dek_is_bound_to_its_key_and_version_even_where_two_versions_are_one_key(
    hsm: HsmService, token: Token, made: SoftHsm, key_id: UUID
) -> None:
    if token.mechanism is not Mechanism.AES_GCM:
        pytest.skip("KWP takes no AAD: the envelope's commitment binds the DEK to its place")
    value, dek = secrets.token_bytes(32), secrets.token_bytes(32)
    first, second = KeyRef(key_id, 1), KeyRef(key_id, 2)
    for ref in (first, second):
        token.ask_stranger("put", key_id, ref.version, value.hex())

    data = await hsm.wrap(first, token.mechanism, dek)

    assert AESGCM(value).decrypt(data[:12], data[12:], wrap_aad(key_id, 1)) == dek
    with pytest.raises(CannotOpen):
        await hsm.unwrap(second, token.mechanism, data)
    assert await hsm.opens_under_any_key(first, token.mechanism, data)
    assert not await hsm.opens_under_any_key(second, token.mechanism, data)


async def test_another_version_does_not_open_it(hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped) -> None:
    second = KeyRef(ref.key_id, 2)
    await hsm.generate(second)
    with pytest.raises(CannotOpen):
        await hsm.unwrap(second, token.mechanism, wrapped.data)


async def test_a_key_serves_no_other_mechanism(hsm: HsmService, token: Token, ref: KeyRef) -> None:
    (other,) = set(Mechanism) - {token.mechanism}
    with pytest.raises(ConfigInvalid):
        await hsm.wrap(ref, other, bytes(32))
    with pytest.raises(CannotOpen):
        await hsm.unwrap(ref, other, bytes(WRAPPED_SIZE[other]))


async def test_only_whole_deks_are_wrapped(hsm: HsmService, token: Token, ref: KeyRef) -> None:
    for size in (0, 16, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            await hsm.wrap(ref, token.mechanism, bytes(size))


async def test_a_thousand_operations_leave_nothing_behind(
    hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    before = _left_behind(token)
    bad = wrapped.data[:-1] + bytes([wrapped.data[-1] ^ 1])

    for _ in range(250):
        data = await hsm.wrap(ref, token.mechanism, wrapped.dek)
        await hsm.unwrap(ref, token.mechanism, data)
        await hsm.check_value(ref)
        with pytest.raises(CannotOpen):
            await hsm.unwrap(ref, token.mechanism, bad)

    assert _left_behind(token) == before


def _left_behind(token: Token) -> tuple[int, int, int]:
    """Objects on the token, session objects of this process, sessions of this process.

    Login counts for the whole process, so a session of ours sees what the service's sees; its thread is idle meanwhile.
    """
    session = token_of(token.uri).open()
    try:
        objects = [len(list(session.get_objects({Attribute.TOKEN: stays}))) for stays in (True, False)]
        module = ctypes.CDLL(str(token_uri.parse(token.uri).module_path))
        info = ctypes.create_string_buffer(256)
        highest = session.handle  # type: ignore[attr-defined]
        sessions = [h for h in range(1, highest + 1) if module.C_GetSessionInfo(ctypes.c_ulong(h), info) == 0]
        return objects[0], objects[1], len(sessions)
    finally:
        session.close()
