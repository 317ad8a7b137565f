"""How many DEKs may be wrapped under one version of a root key, and how they are counted.

A wrap takes a random 96-bit nonce. NIST SP 800-38D, section 8.3, allows 2^32 of them under one key; half of that is
refused here, and a quarter calls for a rotation. Numbers are reserved in blocks, ahead of their use, in the KeyRecord
that all who wrap share: one write for many wraps, and what a process takes with it when it ends was at most counted.
"""

from collections.abc import Mapping
from typing import Any, Final

from keyshred.errors import KeyNotUsable, PolicyNotFresh
from keyshred.hsm.interface import KeyRef
from keyshred.policy.states import FINAL

BLOCK: Final = 1 << 16
ROTATION_DUE: Final = 1 << 30
MOST: Final = 1 << 31

Json = dict[str, Any]


def reserve(record_status: Mapping[str, Any], ref: KeyRef, root_key: str) -> tuple[Json, int]:
    """The KeyRecord's status with one more block reserved, and how many wraps are reserved with it.

    Raises KeyNotUsable where the version has had all its wraps, or its key is on its way out; PolicyNotFresh where the
    record does not know the version.
    """
    if (state := record_status.get("state")) in FINAL:
        raise KeyNotUsable(f"RootKey {root_key} is {state}: nothing is sealed under it")
    versions = record_status.get("versions") or ()
    if ref.version not in {v["version"] for v in versions}:
        raise PolicyNotFresh(f"the KeyRecord {ref.key_id} of RootKey {root_key} does not show its version: try again")
    total = reserved(record_status, ref) + BLOCK
    if total > MOST:
        raise KeyNotUsable(
            f"RootKey {root_key} has wrapped 2^31 data keys under its version {ref.version}, and more are not safe: "
            "rotate it, or create another RootKey and authorise that one here; what is sealed stays readable"
        )
    counted = [dict(v) | ({"wrapsReserved": total} if v["version"] == ref.version else {}) for v in versions]
    return dict(record_status) | {"versions": counted}, total


def reserved(record_status: Mapping[str, Any], ref: KeyRef) -> int:
    """How many wraps are reserved under the version so far."""
    return next(
        (v.get("wrapsReserved", 0) for v in record_status.get("versions") or () if v["version"] == ref.version), 0
    )


def without_counts(record_status: Mapping[str, Any]) -> Json:
    """The KeyRecord's status as it would be if no wrap had been counted."""
    versions = [
        {name: value for name, value in v.items() if name != "wrapsReserved"}
        for v in record_status.get("versions") or ()
    ]
    return dict(record_status) | {"versions": versions}
