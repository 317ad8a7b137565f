"""Value types."""

from uuid import UUID

import pytest

from keyshred.hsm.interface import CHECK_BLOCK, KeyRef

KEY_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")


def test_names_on_the_token() -> None:
    ref = KeyRef(KEY_ID, 258)
    assert ref.cka_id == bytes.fromhex("0123456789abcdef0123456789abcdef00000102")
    assert ref.label == "01234567-89ab-cdef-0123-456789abcdef"
    assert ref.aad == b"KSHW1" + ref.cka_id


@pytest.mark.parametrize("version", [-1, 0, 1 << 32])
def test_a_version_is_a_positive_32_bit_number(version: int) -> None:
    with pytest.raises(ValueError, match="32-bit"):
        KeyRef(KEY_ID, version)


def test_the_check_block_is_one_block_and_not_the_one_that_gives_gcms_hash_key() -> None:
    assert len(CHECK_BLOCK) == 16
    assert any(CHECK_BLOCK)
