"""Making, finding, naming and destroying keys."""

from uuid import UUID, uuid4

import pytest

from keyshred.envelope.format import Mechanism
from keyshred.errors import CannotOpen, Conflict, KeyAmbiguous, KeyMissing, TokenBroken
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from tests.contract.conftest import Token, Wrapped


async def test_a_key_has_the_attributes_of_the_contract_and_no_others(token: Token, ref: KeyRef) -> None:
    (attributes,) = token.ask_stranger("attributes", ref.key_id)

    gcm = token.mechanism is Mechanism.AES_GCM
    assert attributes == {
        "TOKEN": True,
        "PRIVATE": True,
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "COPYABLE": False,
        "MODIFIABLE": False,
        "LABEL": str(ref.key_id),
        "ID": ref.key_id.hex + "00000001",
        "VALUE_LEN": 32,
        "ENCRYPT": True,
        "DECRYPT": gcm,
        "WRAP": not gcm,
        "UNWRAP": not gcm,
        "SIGN": False,
        "VERIFY": False,
        "DERIVE": False,
        "LOCAL": True,
        "ALWAYS_SENSITIVE": True,
        "NEVER_EXTRACTABLE": True,
    }


async def test_who_has_the_pin_can_neither_read_nor_copy_nor_rename_nor_loosen_a_key(token: Token, ref: KeyRef) -> None:
    refusals = token.ask_stranger("abuse", ref.key_id)

    assert all(refusals.values()), refusals
    assert len(token.ask_stranger("attributes", ref.key_id)) == 1


async def test_the_mechanism_is_the_expected_one_and_the_status_names_the_token(hsm: HsmService, token: Token) -> None:
    status = await hsm.status()

    assert status.mechanism is token.mechanism
    assert status.label and status.serial and status.manufacturer and status.model and status.firmware
    assert status.software or token.made is None


async def test_find_lists_the_versions_of_this_key_alone(hsm: HsmService, ref: KeyRef) -> None:
    second, other = KeyRef(ref.key_id, 258), KeyRef(uuid4(), 1)
    await hsm.generate(second)
    await hsm.generate(other)
    try:
        assert await hsm.find(ref.key_id) == (ref, second)
        assert await hsm.find(uuid4()) == ()
    finally:
        await hsm.destroy(other.key_id)


async def test_a_version_is_made_once(hsm: HsmService, ref: KeyRef) -> None:
    before = await hsm.check_value(ref)

    with pytest.raises(Conflict):
        await hsm.generate(ref)

    assert await hsm.find(ref.key_id) == (ref,)
    assert await hsm.check_value(ref) == before


async def test_a_check_value_stays_and_differs_from_key_to_key(hsm: HsmService, token: Token, ref: KeyRef) -> None:
    second = KeyRef(ref.key_id, 2)
    await hsm.generate(second)
    first_value, second_value = await hsm.check_value(ref), await hsm.check_value(second)
    await hsm.close()

    fresh = token.start()
    try:
        assert await fresh.check_value(ref) == first_value
    finally:
        await fresh.close()
    assert len(first_value) == 16
    assert first_value != second_value


async def test_a_key_that_was_never_made_is_missing(hsm: HsmService, token: Token, key_id: UUID) -> None:
    with pytest.raises(KeyMissing):
        await hsm.wrap(KeyRef(key_id, 1), token.mechanism, bytes(32))
    with pytest.raises(KeyMissing):
        await hsm.check_value(KeyRef(key_id, 1))


async def test_a_version_that_is_there_twice_stops_everything_but_its_destruction(
    hsm: HsmService, token: Token, key_id: UUID
) -> None:
    ref = KeyRef(key_id, 1)
    await hsm.generate(ref)
    token.ask_stranger("generate", key_id, 1)

    with pytest.raises(KeyAmbiguous):
        await hsm.wrap(ref, token.mechanism, bytes(32))
    with pytest.raises(KeyAmbiguous):
        await hsm.find(key_id)
    assert await hsm.destroy(key_id) == 2


async def test_a_key_that_can_be_extracted_is_not_used(hsm: HsmService, token: Token, key_id: UUID) -> None:
    token.ask_stranger("generate", key_id, 1, "extractable")

    with pytest.raises(TokenBroken, match="EXTRACTABLE"):
        await hsm.wrap(KeyRef(key_id, 1), token.mechanism, bytes(32))


async def test_destroy_takes_all_versions_of_the_key_and_nothing_else(
    hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    other = KeyRef(uuid4(), 1)
    await hsm.generate(KeyRef(ref.key_id, 2))
    await hsm.generate(other)
    try:
        kept = await hsm.wrap(other, token.mechanism, wrapped.dek)
        before = token.ask_stranger("count")
        assert await hsm.opens_under_any_key(ref, token.mechanism, wrapped.data)

        assert await hsm.destroy(ref.key_id) == 2

        assert token.ask_stranger("count") == before - 2
        assert await hsm.find(ref.key_id) == ()
        assert not await hsm.opens_under_any_key(ref, token.mechanism, wrapped.data)
        with pytest.raises(KeyMissing):
            await hsm.unwrap(ref, token.mechanism, wrapped.data)
        assert await hsm.unwrap(other, token.mechanism, kept) == wrapped.dek
        assert await hsm.destroy(ref.key_id) == 0
    finally:
        await hsm.destroy(other.key_id)


async def test_a_key_made_anew_does_not_open_what_its_forerunner_sealed(
    hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    await hsm.destroy(ref.key_id)
    await hsm.generate(ref)

    with pytest.raises(CannotOpen):
        await hsm.unwrap(ref, token.mechanism, wrapped.data)


async def test_a_key_that_another_process_destroyed_is_missing_at_the_next_call(
    hsm: HsmService, token: Token, ref: KeyRef, wrapped: Wrapped
) -> None:
    assert token.ask_stranger("destroy", ref.key_id) == 1

    with pytest.raises(KeyMissing):
        await hsm.unwrap(ref, token.mechanism, wrapped.data)
    with pytest.raises(KeyMissing):
        await hsm.wrap(ref, token.mechanism, wrapped.dek)
    assert await hsm.find(ref.key_id) == ()
