"""The test vectors: made by the generator as committed, and met by the code in every case."""

import json
import runpy
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyshred.envelope.context import Context, value_aad, wrap_aad
from keyshred.envelope.format import parse, serialise
from keyshred.envelope.seal import derive
from keyshred.errors import Deny, MalformedEnvelope

from .reader import value_keys

VECTORS = Path(__file__).parents[2] / "vectors"
Case = dict[str, Any]


def load(file: str) -> Any:
    return json.loads((VECTORS / file).read_text())


def cases(file: str, group: str) -> list[Any]:
    return [pytest.param(case, id=case["title"].encode("unicode_escape").decode()) for case in load(file)[group]]


def test_the_committed_vectors_are_what_the_generator_makes() -> None:
    made = runpy.run_path(str(VECTORS / "generate.py"))["vectors"]()
    assert {path.name for path in VECTORS.glob("*.json")} == set(made)
    assert [name for name, text in made.items() if (VECTORS / name).read_text() != text] == []


@pytest.mark.parametrize("case", cases("context.json", "canonical"))
def test_context(case: Case) -> None:
    context = Context(uuid.UUID(case["keyID"]), case["namespace"], case["name"])
    ctx = context.encode()
    assert ctx.hex() == case["ctx"]
    assert value_aad(ctx, case["dataKey"]).hex() == case["valueAAD"]
    assert wrap_aad(context.key_id, case["keyVersion"]).hex() == case["wrapAAD"]
    assert derive(bytes.fromhex(case["dek"]), context).commit.hex() == case["commit"]


@pytest.mark.parametrize("case", cases("context.json", "refused"))
def test_context_refused(case: Case) -> None:
    with pytest.raises(Deny) as caught:
        context = Context(uuid.UUID(case["keyID"]), case["namespace"], case["name"])
        value_aad(context.encode(), case["dataKey"])
        wrap_aad(context.key_id, case["keyVersion"])
    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("case", cases("envelope.json", "canonical"))
def test_envelope(case: Case) -> None:
    envelope = parse(case["text"])
    assert serialise(envelope) == case["text"]
    assert str(envelope.key_id) == case["keyID"]
    assert envelope.key_version == case["keyVersion"]
    assert envelope.mechanism == case["mechanism"]
    assert envelope.wrapped_dek.hex() == case["wrappedDEK"]
    assert envelope.commit.hex() == case["commit"]
    assert (envelope.namespace, envelope.name) == (case["namespace"], case["name"])
    assert envelope.born == case["born"]
    assert envelope.born_at == datetime.fromtimestamp(case["bornAtUnix"], UTC)


@pytest.mark.parametrize("case", cases("envelope.json", "refused"))
def test_envelope_refused(case: Case) -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        parse(case["text"])
    assert case["error"] == "MalformedEnvelope"
    assert str(caught.value).startswith(f"envelope: {case['field']} " if case["field"] else "envelope: ")


@pytest.mark.parametrize("case", cases("open.json", "cases"))
def test_open(case: Case) -> None:
    keys = {(uuid.UUID(key["keyID"]), key["keyVersion"]): key["key"] for key in load("open.json")["rootKeys"]}

    def attempt() -> bytes:
        secret, sealed = case["secret"], bytes.fromhex(case["sealed"])
        opening = value_keys(
            lambda *key: bytes.fromhex(keys[key]), secret["namespace"], secret["name"], case["envelope"]
        )
        return opening.open(case["dataKey"], sealed)

    if "plaintext" in case:
        assert attempt().hex() == case["plaintext"]
    else:
        with pytest.raises(Deny) as caught:
            attempt()
        assert type(caught.value).__name__ == case["error"]
