"""Writes the test vectors beside this file: `PYTHONPATH=operator python tests/vectors/generate.py`.

Deterministic: keys, DEKs and nonces are SHA-256 of their names. Fixed nonces are for vectors only. The layout is
told in docs/envelope-format.md, section 10; once released, cases are added and never changed.
"""

import base64
import hashlib
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from keyshred.envelope.context import Context, value_aad, wrap_aad
from keyshred.envelope.format import Born, Envelope, Mechanism, serialise
from keyshred.envelope.seal import ValueKeys, derive

Case = dict[str, Any]

KEY_ID = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
OTHER_KEY_ID = uuid.UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")
BORN_AT = datetime(2026, 11, 24, 9, 30, 0, tzinfo=UTC)


def fixed(name: str, size: int) -> bytes:
    """`size` (at most 32) bytes that depend on the name alone."""
    return hashlib.sha256(name.encode()).digest()[:size]


# Version 3 and the other key ID repeat the bytes of version 1, which no HSM would: there only the wrap's AAD or the
# commit is left to refuse, and the vectors hold both to it.
ROOT_KEYS = {
    (KEY_ID, 1): fixed("root key 1", 32),
    (KEY_ID, 2): fixed("root key 2", 32),
    (KEY_ID, 3): fixed("root key 1", 32),
    (KEY_ID, 2**32 - 1): fixed("root key last", 32),
    (OTHER_KEY_ID, 1): fixed("root key 1", 32),
}


def wrap(mechanism: Mechanism, key_id: uuid.UUID, version: int, dek: bytes) -> bytes:
    """What the HSM would answer, with a fixed IV."""
    root_key = ROOT_KEYS[key_id, version]
    if mechanism is Mechanism.AES_KWP:
        return aes_key_wrap_with_padding(root_key, dek)
    iv = fixed(f"iv {version}", 12)
    return iv + AESGCM(root_key).encrypt(iv, dek, wrap_aad(key_id, version))


def envelope_of(context: Context, dek: bytes, mechanism: Mechanism = Mechanism.AES_GCM, version: int = 1) -> Envelope:
    """The envelope of a Secret."""
    return Envelope(
        key_id=context.key_id,
        key_version=version,
        mechanism=mechanism,
        wrapped_dek=wrap(mechanism, context.key_id, version, dek),
        commit=derive(dek, context).commit,
        namespace=context.namespace,
        name=context.name,
        born=Born.SEALED,
        born_at=BORN_AT,
    )


def sealed(keys: ValueKeys, data_key: str, plaintext: bytes, nonce: str = "nonce") -> bytes:
    """A value sealed under a fixed nonce."""
    return keys._seal(data_key, plaintext, nonce=fixed(nonce, 12))


def flipped(raw: bytes, position: int) -> bytes:
    """`raw` with one bit changed."""
    changed = bytearray(raw)
    changed[position] ^= 1
    return bytes(changed)


CONTEXT = Context(KEY_ID, "shop", "database")
LONGEST = Context(KEY_ID, "n" * 63, ".".join(["a" * 63] * 3 + ["b" * 61]))
DEK = fixed("dek", 32)


def context_vectors() -> Case:
    """ctx, VEK, commit and both AADs; and names that are refused."""
    good = []
    for title, context, version, data_key in (
        ("usual names", CONTEXT, 1, "password"),
        ("shortest names, lowest version", Context(KEY_ID, "a", "b"), 1, "k"),
        ("longest names, highest version", LONGEST, 2**32 - 1, "K" * 253),
        ("boundary of namespace and name, one way", Context(KEY_ID, "ab", "c"), 256, "d"),
        ("boundary of namespace and name, other way", Context(KEY_ID, "a", "bc"), 256, "d"),
        ("boundary of name and data key", Context(KEY_ID, "ab", "cd"), 256, "e"),
        ("nil key ID, dots and dashes", Context(uuid.UUID(int=0), "x-1", "tls.web-2"), 65536, ".dockerconfig_JSON-1"),
    ):
        ctx = context.encode()
        info = b"keyshred/v1\0" + ctx
        okm = HKDFExpand(algorithm=SHA256(), length=48, info=info).derive(DEK)
        good.append(
            {
                "title": title,
                "keyID": str(context.key_id),
                "keyVersion": version,
                "namespace": context.namespace,
                "name": context.name,
                "dataKey": data_key,
                "dek": DEK.hex(),
                "ctx": ctx.hex(),
                "info": info.hex(),
                "vek": okm[:32].hex(),
                "commit": derive(DEK, context).commit.hex(),
                "valueAAD": value_aad(ctx, data_key).hex(),
                "wrapAAD": wrap_aad(context.key_id, version).hex(),
            }
        )
    names: dict[str, list[Any]] = {
        "namespace": ["", "n" * 64, "a.b", "-a", "a-", "Shop", "a_b", "shöp", "shop\n", "shop\0", "\u0661"],
        "name": ["", "n" * 254, "Database", "a..b", ".a", "a.", "-a", "a-", "a.-b", "a_b", "a/b", "database\n", "dä"],
        "dataKey": ["", "k" * 254, ".", "..", "..a", "a/b", "a b", "a\n", "a\0", "ä", "../a"],
        "keyVersion": [0, -1, 2**32],
    }
    usual = {"keyID": str(KEY_ID), "keyVersion": 1, "namespace": "shop", "name": "database", "dataKey": "password"}
    bad = [usual | {"title": field, field: value, "error": "Malformed"} for field in names for value in names[field]]
    return {"canonical": good, "refused": bad}


def envelope_vectors() -> Case:
    """Texts that are envelopes, with what they say, and texts that are none."""
    usual = envelope_of(CONTEXT, DEK)
    wrapped_by_kwp = envelope_of(CONTEXT, DEK, Mechanism.AES_KWP)
    adopted = replace(usual, born=Born.ADOPTED, born_at=datetime(1970, 1, 1, tzinfo=UTC))
    late = replace(wrapped_by_kwp, born_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    good = [
        {
            "title": title,
            "text": serialise(envelope),
            "keyID": str(envelope.key_id),
            "keyVersion": envelope.key_version,
            "mechanism": envelope.mechanism.value,
            "wrappedDEK": envelope.wrapped_dek.hex(),
            "commit": envelope.commit.hex(),
            "namespace": envelope.namespace,
            "name": envelope.name,
            "born": envelope.born.value,
            "bornAtUnix": int(envelope.born_at.timestamp()),
        }
        for title, envelope in (
            ("AES_GCM", usual),
            ("AES_KWP", wrapped_by_kwp),
            ("adopted, earliest time", adopted),
            ("latest time", late),
            ("longest text", replace(envelope_of(LONGEST, DEK, version=2**32 - 1), born=Born.ADOPTED)),
        )
    ]
    return {"canonical": good, "refused": malformed_texts(serialise(usual), serialise(wrapped_by_kwp))}


def malformed_texts(gcm: str, kwp: str) -> list[Case]:
    """Texts that are almost an envelope, made from an envelope wrapped by AES_GCM and one by AES_KWP.

    Each must be refused as MalformedEnvelope, with the field's name in the message where one is given.
    """
    cases: list[Case] = []
    members = json.loads(gcm)
    wrapped, wrapped_kwp, commit = members["wrappedDEK"], json.loads(kwp)["wrappedDEK"], members["commit"]

    def add(title: str, text: str, field: str = "") -> None:
        cases.append({"title": title, "text": text, "error": "MalformedEnvelope", "field": field})

    def literal(field: str, *literals: str, base: str = gcm) -> None:
        """One case for each JSON text put where the field's value stands."""
        old = f'"{field}":{json.dumps(json.loads(base)[field])}'
        for new in literals:
            add(f"{field}: {new[:60]}", base.replace(old, f'"{field}":{new}', 1), field)

    def value(field: str, *values: str, base: str = gcm) -> None:
        literal(field, *map(json.dumps, values), base=base)

    add("empty", "")
    add("a word", "envelope")
    add("JSON of another kind: null", "null")
    add("JSON of another kind: array", f"[{gcm}]")
    add("JSON of another kind: string", json.dumps(gcm))
    add("no members", "{}", "v")
    add("deep nesting", "[" * 1024)
    add("too long, if only by white space", gcm + " " * 1024)
    add("cut", gcm[:-1])
    add("space before", " " + gcm)
    add("line end after", gcm + "\n")
    add("zero byte after", gcm + "\0")
    add("byte order mark", "\ufeff" + gcm)
    add("a second object", gcm + gcm)
    add("comma at the end", gcm[:-1] + ",}")
    add("space after a colon", gcm.replace('":', '": ', 1))
    add("space after a comma", gcm.replace(",", ", ", 1))
    add("members not sorted", json.dumps(dict(reversed(members.items())), separators=(",", ":")))
    add("member twice, same value", gcm.replace('"v":1', '"v":1,"v":1'))
    add("member twice, other value", gcm.replace('"v":1', '"v":2,"v":1'))
    add("member twice, once escaped", gcm.replace('"v":1', '"v":1,"\\u0076":1'))
    add("unknown member", gcm.replace('"v":1', '"v":1,"w":1'))
    add("unknown member that is empty", gcm.replace('"v":1', '"":null,"v":1'))
    add("member in another case", gcm.replace('"keyID"', '"keyId"'), "keyID")
    add("later version with a new member", gcm.replace('"v":1', '"v":2,"w":1'), "v")
    for field in members:
        rest = {name: value for name, value in members.items() if name != field}
        add(f"without {field}", json.dumps(rest, separators=(",", ":")), field)
        literal(field, "null", "[]", "{}")
    add("escape in a member", gcm.replace('"born"', '"\\u0062orn"'))
    add("escape in a value", gcm.replace('"shop"', '"\\u0073hop"'))
    add("escaped solidus", gcm.replace(wrapped, wrapped.replace("/", "\\/")))

    literal("v", "0", "2", "-1", '"1"', "true", "1.0", "1e0", "-0", "NaN", "9" * 300)
    versions = ("0", "-1", "-0", "4294967296", '"1"', "true", "1.0", "1e0", "1E400", "Infinity")
    literal("keyVersion", *versions, "9" * 300)
    for number in ("01", "+1", "0x1", "1_0", "\u0661"):
        add(f"number that is not JSON: {number}", gcm.replace('"keyVersion":1', f'"keyVersion":{number}'))
    key_id = members["keyID"]
    compact = key_id.replace("-", "")
    value("keyID", "", key_id.upper(), compact, f"{{{key_id}}}", f"urn:uuid:{key_id}", key_id[:-1], key_id + "0")
    value("keyID", key_id[:-1] + "g", key_id + "\n", f" {key_id}", key_id.replace("0", "\u0660"), key_id[:-2] + "_1")
    value("keyID", key_id[:7] + "-" + key_id[7] + key_id[9:])
    literal("keyID", "1")
    value("mechanism", "", "aes_gcm", "AES-GCM", "AES_CBC", "AES_GCM ", "AES_GCM\0")
    value("mechanism", "AES_KWP")
    value("mechanism", "AES_GCM", base=kwp)
    cases[-1]["field"] = cases[-2]["field"] = "wrappedDEK"

    value("wrappedDEK", "", wrapped[:-4], wrapped + "AAAA", wrapped[:-1], wrapped + "=", wrapped + "====")
    value("wrappedDEK", wrapped[:40] + "\n" + wrapped[40:], wrapped[:40] + "!" + wrapped[40:], " " + wrapped)
    value("wrappedDEK", "-" + wrapped[1:], "_" + wrapped[1:], "\u00e4" + wrapped[1:], "=" + wrapped[1:])
    value("wrappedDEK", wrapped_kwp[:-1], wrapped_kwp[:-2], _stray_bits(wrapped_kwp), wrapped_kwp + "=", base=kwp)
    value("wrappedDEK", wrapped_kwp[:-3] + "A=", base=kwp)
    value("commit", "", commit[:-1], commit[:-2], _stray_bits(commit), commit[:-4], commit + "AAAA", commit + "=")
    value("commit", commit[:-2] + "A=", commit[:-2] + "AA", commit.lower() + "\t", "=" * 24)

    value("namespace", "", "n" * 64, "a.b", "Shop", "-shop", "shop-", "sh\u00f6p", "shop\n", "\ud800", "shop\0")
    literal("namespace", "1")
    value("name", "", "n" * 254, "Database", "data_base", "data/base", "a..b", ".a", "a.", "database\n", "d\u00e4")
    value("born", "", "Sealed", "SEALED", "created", "sealed ", "adopted\n")
    literal("born", "true")
    value("bornAt", "", "2026-11-24", "2026-11-24T09:30:00", "2026-11-24T09:30:00+00:00", "2026-11-24T09:30:00-00:00")
    value("bornAt", "2026-11-24T10:30:00+01:00", "2026-11-24t09:30:00z", "2026-11-24 09:30:00Z", "2026-11-24T09:30Z")
    value("bornAt", "2026-11-24T09:30:00.0Z", "2026-11-24T09:30:00.5Z", "2026-11-24T09:30:00,0Z", "20261124T093000Z")
    value("bornAt", "2026-11-24T24:00:00Z", "2026-11-24T09:30:60Z", "2026-02-30T09:30:00Z", "2026-W48-2T09:30:00Z")
    value("bornAt", "1969-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "+2026-11-24T09:30:00Z")
    value("bornAt", "2026-1-24T09:30:00Z", "2026-11-24T09:30:00Z\n", "\u0662026-11-24T09:30:00Z")
    literal("bornAt", "1795512600")
    return cases


def _stray_bits(text: str) -> str:
    """Base64 of the same bytes, with a bit set that no byte uses (text ends in `==`)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return text[:-3] + alphabet[alphabet.index(text[-3]) | 1] + "=="


def open_vectors() -> Case:
    """The whole way from what stands in a Secret to the plaintext of one value."""
    cases: list[Case] = []
    keys, envelope = derive(DEK, CONTEXT), envelope_of(CONTEXT, DEK)
    kwp = envelope_of(CONTEXT, DEK, Mechanism.AES_KWP)
    usual = sealed(keys, "password", b"correct horse")

    def add(
        title: str,
        expect: bytes | str,
        value: bytes = usual,
        found: Envelope | str = envelope,
        namespace: str = "shop",
        name: str = "database",
        data_key: str = "password",
    ) -> None:
        cases.append(
            {
                "title": title,
                "secret": {"namespace": namespace, "name": name},
                "envelope": found if isinstance(found, str) else serialise(found),
                "dataKey": data_key,
                "sealed": value.hex(),
                **({"error": expect} if isinstance(expect, str) else {"plaintext": expect.hex()}),
            }
        )

    add("AES_GCM", b"correct horse")
    add("AES_KWP", b"correct horse", found=kwp)
    add("empty value", b"", sealed(keys, "password", b""))
    add("every byte", bytes(range(256)), sealed(keys, "password", bytes(range(256))))
    add("plaintext that looks sealed", usual, sealed(keys, "password", usual))
    add("one block", b"\0" * 16, sealed(keys, "password", b"\0" * 16))
    add("a zero byte at the end", b"a\0", sealed(keys, "password", b"a\0"))
    long_value = sealed(derive(DEK, LONGEST), "K" * 253, b"long")
    for mechanism in Mechanism:
        longest = envelope_of(LONGEST, DEK, mechanism, 2**32 - 1)
        add(f"longest names, {mechanism}", b"long", long_value, longest, LONGEST.namespace, LONGEST.name, "K" * 253)
        add(f"rotated, {mechanism}: same value", b"correct horse", found=envelope_of(CONTEXT, DEK, mechanism, 2))
    add("second value of the same Secret", b"admin", sealed(keys, "user", b"admin", "nonce 2"), data_key="user")
    add("an older value of the same data key: no freshness", b"old", sealed(keys, "password", b"old", "nonce 0"))
    edited = replace(envelope, born=Born.ADOPTED, born_at=datetime(2001, 1, 1, tzinfo=UTC))
    add("born and bornAt edited: not authenticated", b"correct horse", found=edited)

    for value, title in (
        (b"", "empty, not even a prefix"),
        (b"correct horse, of thirty-two bytes", "plaintext"),
        (b"ksh1" + usual[4:], "prefix in lower case"),
        (b"KSH2" + usual[4:], "prefix of another version"),
        (base64.b64encode(usual), "base64 once too often"),
        (usual[:3], "cut in the prefix"),
        (usual[:4], "prefix alone"),
        (usual[:16], "no tag"),
        (usual[:31], "one byte short of the shortest value"),
    ):
        add(f"shape: {title}", "MalformedValue", value)
    for title, value in (
        ("cut to the shortest shape", usual[:32]),
        ("last byte cut", usual[:-1]),
        ("byte added", usual + b"\0"),
        ("nonce changed", flipped(usual, 4)),
        ("ciphertext changed", flipped(usual, 16)),
        ("tag changed", flipped(usual, -1)),
        ("value of another data key", sealed(keys, "user", b"admin", "nonce 2")),
        ("value of another Secret", sealed(derive(DEK, Context(KEY_ID, "shop", "other")), "password", b"x")),
        ("value under another DEK", sealed(derive(fixed("dek 2", 32), CONTEXT), "password", b"x")),
        ("value without AAD", b"KSH1" + fixed("nonce", 12) + keys._aead.encrypt(fixed("nonce", 12), b"x", None)),
        ("value with a short tag", usual[:-4]),
    ):
        add(title, "CannotOpen", value)
    add("other data key", "CannotOpen", data_key="passwore")
    add("data key in another case", "CannotOpen", data_key="Password")
    add("data key that Kubernetes refuses", "Malformed", data_key="pass/word")

    for scheme, good in (("AES_GCM", envelope), ("AES_KWP", kwp)):
        add(f"{scheme}: found in another Secret", "CannotOpen", found=good, name="databasf")
        add(f"{scheme}: found in another namespace", "CannotOpen", found=good, namespace="shoq")
        for title, edit in (
            ("name edited", {"name": "databasf"}),
            ("namespace edited", {"namespace": "shoq"}),
            ("boundary of namespace and name moved", {"namespace": "sho", "name": "pdatabase"}),
            ("key ID edited, same root key bytes", {"key_id": OTHER_KEY_ID}),
            ("key version edited, another root key", {"key_version": 2}),
            ("commit: first byte", {"commit": flipped(good.commit, 0)}),
            ("commit: last byte", {"commit": flipped(good.commit, -1)}),
            ("commit of another Secret", {"commit": derive(DEK, Context(KEY_ID, "shop", "other")).commit}),
            ("wrapped DEK: first byte", {"wrapped_dek": flipped(good.wrapped_dek, 0)}),
            ("wrapped DEK: middle", {"wrapped_dek": flipped(good.wrapped_dek, 20)}),
            ("wrapped DEK: last byte", {"wrapped_dek": flipped(good.wrapped_dek, -1)}),
            ("wrapped DEK of another", {"wrapped_dek": wrap(good.mechanism, KEY_ID, 1, fixed("dek 2", 32))}),
        ):
            changed = replace(good, **edit)
            # Where the reader looks follows the edit, so that the names in the envelope are not what refuses.
            add(f"{scheme}: {title}", "CannotOpen", found=changed, namespace=changed.namespace, name=changed.name)
    add("key version edited, same root key bytes", "CannotOpen", found=replace(envelope, key_version=3))
    iv = fixed("iv 1", 12)
    bare = iv + AESGCM(ROOT_KEYS[KEY_ID, 1]).encrypt(iv, DEK, None)
    add("wrap without AAD", "CannotOpen", found=replace(envelope, wrapped_dek=bare))
    short = DEK[:31]
    okm = HKDFExpand(algorithm=SHA256(), length=48, info=b"keyshred/v1\0" + CONTEXT.encode()).derive(short)
    add(
        "AES_KWP: DEK of 31 bytes, commit and value made for it",
        "CannotOpen",
        sealed(ValueKeys(okm[:32], okm[32:], CONTEXT.encode()), "password", b"x"),
        replace(kwp, wrapped_dek=wrap(Mechanism.AES_KWP, KEY_ID, 1, short), commit=okm[32:]),
    )
    add("order: envelope before value", "MalformedEnvelope", b"", serialise(envelope) + " ")
    add("order: context before value", "CannotOpen", b"", name="databasf")
    add("order: commit before value", "CannotOpen", b"", replace(envelope, commit=flipped(envelope.commit, 0)))
    root_keys = [{"keyID": str(k), "keyVersion": v, "key": key.hex()} for (k, v), key in ROOT_KEYS.items()]
    return {"rootKeys": root_keys, "dek": DEK.hex(), "cases": cases}


def vectors() -> dict[str, str]:
    """File name → text."""
    made = {"context.json": context_vectors(), "envelope.json": envelope_vectors(), "open.json": open_vectors()}
    return {name: json.dumps(content, indent=1) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    for file_name, text in vectors().items():
        (Path(__file__).parent / file_name).write_text(text)
