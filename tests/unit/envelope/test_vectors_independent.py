"""The vectors against docs/envelope-format.md, with plain primitives and nothing of keyshred.

HKDF-Expand is RFC 5869 section 2.3 over hmac, key wrap with padding RFC 5649 over AES blocks, the JSON a template.
"""

import hashlib
import hmac
import json
import struct
import uuid
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

VECTORS = Path(__file__).parents[2] / "vectors"
Case = dict[str, Any]
TEXT = (
    '{{"born":"{born}","bornAt":"{bornAt}","commit":"{commit}","keyID":"{keyID}","keyVersion":{keyVersion},'
    '"mechanism":"{mechanism}","name":"{name}","namespace":"{namespace}","v":1,"wrappedDEK":"{wrappedDEK}"}}'
)


def load(file: str) -> Any:
    return json.loads((VECTORS / file).read_text())


def prefixed(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode("ascii")


def ctx_of(key_id: str, namespace: str, name: str) -> bytes:
    return uuid.UUID(key_id).bytes + prefixed(namespace) + prefixed(name)


def expand(dek: bytes, info: bytes) -> bytes:
    first = hmac.digest(dek, info + b"\x01", hashlib.sha256)
    return (first + hmac.digest(dek, first + info + b"\x02", hashlib.sha256))[:48]


def gcm_open(key: bytes, nonce: bytes, ciphertext_and_tag: bytes, aad: bytes) -> bytes:
    tag = ciphertext_and_tag[-16:]
    decryptor = Cipher(algorithms.AES(key), modes.GCM(nonce, tag)).decryptor()
    decryptor.authenticate_additional_data(aad)
    return decryptor.update(ciphertext_and_tag[:-16]) + decryptor.finalize()


def kwp_unwrap(key: bytes, wrapped: bytes) -> bytes:
    block = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    halves = [wrapped[i : i + 8] for i in range(0, len(wrapped), 8)]
    a, r = halves[0], halves[1:]
    for t in range(6 * len(r), 0, -1):
        i = (t - 1) % len(r)
        mixed = (int.from_bytes(a, "big") ^ t).to_bytes(8, "big")
        plain = block.update(mixed + r[i])
        a, r[i] = plain[:8], plain[8:]
    assert a == bytes.fromhex("a65959a6") + struct.pack(">I", 32)
    return b"".join(r)


@pytest.mark.parametrize("case", load("context.json")["canonical"], ids=lambda case: case["title"])
def test_context(case: Case) -> None:
    key_id, ctx = uuid.UUID(case["keyID"]).bytes, ctx_of(case["keyID"], case["namespace"], case["name"])
    info = b"keyshred/v1" + b"\x00" + ctx
    okm = expand(bytes.fromhex(case["dek"]), info)
    assert case["ctx"] == ctx.hex()
    assert case["info"] == info.hex()
    assert (case["vek"], case["commit"]) == (okm[:32].hex(), okm[32:].hex())
    assert case["valueAAD"] == (b"KSH1" + ctx + prefixed(case["dataKey"])).hex()
    assert case["wrapAAD"] == (b"KSHW1" + key_id + struct.pack(">I", case["keyVersion"])).hex()


@pytest.mark.parametrize("case", load("envelope.json")["canonical"], ids=lambda case: case["title"])
def test_envelope(case: Case) -> None:
    members = json.loads(case["text"])
    assert TEXT.format(**members) == case["text"]
    assert members["bornAt"] == datetime.fromtimestamp(case["bornAtUnix"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert {field: b64decode(members[field]).hex() for field in ("commit", "wrappedDEK")} == {
        field: case[field] for field in ("commit", "wrappedDEK")
    }
    for field in ("keyID", "keyVersion", "mechanism", "namespace", "name", "born"):
        assert members[field] == case[field]


OPENED = [case for case in load("open.json")["cases"] if "plaintext" in case]


@pytest.mark.parametrize("case", OPENED, ids=lambda case: case["title"])
def test_open(case: Case) -> None:
    members = json.loads(case["envelope"])
    assert TEXT.format(**members) == case["envelope"]
    assert {"namespace": members["namespace"], "name": members["name"]} == case["secret"]
    place = (members["keyID"], members["keyVersion"])
    (root_key,) = [
        bytes.fromhex(key["key"]) for key in load("open.json")["rootKeys"] if (key["keyID"], key["keyVersion"]) == place
    ]
    wrapped = b64decode(members["wrappedDEK"])
    if members["mechanism"] == "AES_KWP":
        dek = kwp_unwrap(root_key, wrapped)
    else:
        aad = b"KSHW1" + uuid.UUID(place[0]).bytes + struct.pack(">I", place[1])
        dek = gcm_open(root_key, wrapped[:12], wrapped[12:], aad)
    assert dek.hex() == load("open.json")["dek"]

    ctx = ctx_of(members["keyID"], members["namespace"], members["name"])
    okm = expand(dek, b"keyshred/v1\x00" + ctx)
    assert okm[32:] == b64decode(members["commit"])
    sealed = bytes.fromhex(case["sealed"])
    assert sealed[:4] == b"KSH1"
    plaintext = gcm_open(okm[:32], sealed[4:16], sealed[16:], b"KSH1" + ctx + prefixed(case["dataKey"]))
    assert plaintext.hex() == case["plaintext"]


def test_both_mechanisms_are_in_the_vectors() -> None:
    assert {json.loads(case["envelope"])["mechanism"] for case in OPENED} == {"AES_GCM", "AES_KWP"}
