"""What is kept of Secrets."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from keyshred.envelope.format import Born, Envelope, Mechanism, serialise
from keyshred.policy.found import Sealed, read_secret

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENVELOPE = Envelope(UUID(int=1), 3, Mechanism.AES_GCM, bytes(60), bytes(16), "ns", "s", Born.ADOPTED, NOW)


def row(**metadata: Any) -> dict[str, Any]:
    meta = {"namespace": "ns", "name": "s", "resourceVersion": "7"} | metadata
    return {"cells": ["s", "Opaque", 2, "5d"], "object": {"kind": "PartialObjectMetadata", "metadata": meta}}


def test_a_secret() -> None:
    text = serialise(ENVELOPE)
    found = read_secret(row(labels={"b": "2", "a": "1"}, annotations={"keyshred.dev/envelope": text}))
    assert found.type == "Opaque" and found.keys == 2 and found.version == "7" and found.labels == {"a": "1", "b": "2"}
    assert found.sealed == Sealed(UUID(int=1), 3, Born.ADOPTED, NOW)
    assert not found.perhaps_immutable


@pytest.mark.parametrize("copied", [{"name": "t"}, {"namespace": "other"}])
def test_with_another_secrets_envelope_it_is_not_sealed(copied: dict[str, str]) -> None:
    assert read_secret(row(annotations={"keyshred.dev/envelope": serialise(ENVELOPE)}, **copied)).sealed is None


@pytest.mark.parametrize("annotations", [{}, {"keyshred.dev/envelope": "{}"}, {"keyshred.dev/envelope": ""}])
def test_without_an_envelope_that_can_be_read_it_is_not_sealed(annotations: dict[str, str]) -> None:
    assert read_secret(row(annotations=annotations)).sealed is None


def test_whoever_set_the_field_immutable_is_seen() -> None:
    managed = [{"fieldsV1": {"f:data": {"f:immutable": {}}}}, {"manager": "x"}]
    assert not read_secret(row(managedFields=managed)).perhaps_immutable
    assert read_secret(row(managedFields=[*managed, {"fieldsV1": {"f:immutable": {}}}])).perhaps_immutable


def test_equal_labels_are_kept_once() -> None:
    assert read_secret(row(labels={"a": "1"})).labels is read_secret(row(labels={"a": "1"})).labels
