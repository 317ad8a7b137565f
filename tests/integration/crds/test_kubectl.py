"""The CRDs on a real API server: what kubectl shows."""

import json
from collections.abc import Iterator, Sequence

import pytest

from keyshred import names
from tests.cluster.kubectl import Kubectl
from tests.integration.crds.api import PLURALS, Api, Object
from tests.integration.crds.samples import FULL_STATUS, sample


def undescribed(schema: Object, path: str) -> Iterator[str]:
    """Fields without a description, in the form that `kubectl explain` reads (OpenAPI v3)."""
    for name, field in schema.get("properties", {}).items():
        if not field.get("description", "").strip():
            yield f"{path}.{name}"
        if name != "metadata":
            yield from undescribed(field.get("items", field), f"{path}.{name}")


def test_kubectl_explain_has_words_for_every_field(kubectl: Kubectl, crds: None) -> None:
    published = json.loads(kubectl.run("get", "--raw", f"/openapi/v3/apis/{names.API_VERSION}").stdout)
    schemas = published["components"]["schemas"]
    ours = [schemas[f"dev.keyshred.{names.VERSION}.{kind}"] for kind in PLURALS]
    assert [gap for kind, schema in zip(PLURALS, ours, strict=True) for gap in undescribed(schema, kind)] == []
    assert all("spec" in schema["properties"] and "status" in schema["properties"] for schema in ours)
    explained = kubectl.run("explain", "rootkey.spec.destruction.gracePeriod").stdout
    assert "0s it is destroyed at once" in " ".join(explained.split())


@pytest.mark.parametrize(
    ("short", "kind", "columns"),
    [
        ("rk", "RootKey", ["NAME", "STATE", "VERSION", "SECRETS", "AGE"]),
        ("ka", "KeyAuthorization", ["NAME", "ROOTKEY", "MODE", "READY", "REASON", "NAMESPACES", "SECRETS", "AGE"]),
        ("kr", "KeyRecord", ["NAME", "ROOTKEY", "STATE", "OUTCOME", "DESTROYED", "AGE"]),
    ],
)
def test_columns(api: Api, kubectl: Kubectl, short: str, kind: str, columns: Sequence[str]) -> None:
    body = api.create(sample(kind)) | {"status": FULL_STATUS[kind]}
    api.replace(body, status=True)
    name = body["metadata"]["name"]
    header, row = kubectl.run("get", short, name).stdout.splitlines()
    assert header.split() == columns
    shown = {
        "RootKey": [name, "Active", "1", "3"],
        "KeyAuthorization": [name, "payments", "Enforce", "True", "KeyActive", "1", "2"],
        "KeyRecord": [name, "payments", "Destroyed", "performed"],
    }[kind]
    assert row.split()[: len(shown)] == shown


def test_category_and_field_selectors(kubectl: Kubectl, record: Object) -> None:
    key_id = record["metadata"]["name"]
    assert f"keyrecord.keyshred.dev/{key_id}" in kubectl.run("get", "keyshred", "-o", "name").stdout
    assert key_id in kubectl.run("get", "kr", "--field-selector=spec.rootKeyName=payments", "-o", "name").stdout
    assert key_id not in kubectl.run("get", "kr", "--field-selector=spec.rootKeyName=other", "-o", "name").stdout
    for short in ("ka", "da"):
        kubectl.run("get", short, "--field-selector=spec.rootKeyRef.name=payments")
