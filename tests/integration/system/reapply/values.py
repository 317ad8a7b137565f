"""Manifests of these tests."""

import base64
from collections.abc import Mapping
from typing import Any

from tests.integration.system.tenant import Tenant, decoded

Values = Mapping[str, bytes]
Object = dict[str, Any]


def manifest(namespace: str, name: str, values: Values, field: str = "data", **metadata: Any) -> Object:
    """A Secret with plaintext values in `field`: stringData or data."""
    encode = bytes.decode if field == "stringData" else lambda value: base64.b64encode(value).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace} | metadata,
        field: {key: encode(value) for key, value in values.items()},
    }


def opened(tenant: Tenant, name: str) -> dict[str, bytes]:
    """The values that the unseal call answers with."""
    status, body = tenant.ask(name)
    assert status == 200, body
    return {key: base64.b64decode(value) for key, value in body["data"].items()}


def sealed(stored: Object) -> bool:
    """Whether every value is."""
    return all(value.startswith(b"KSH1") for value in decoded(stored).values())


def leaked(tenant: Tenant, name: str, values: Values) -> set[str]:
    """Keys of `values` that etcd holds in plaintext or as base64, in the Secret or in its last-applied annotation."""
    raw = tenant.in_etcd(name)
    return {key for key, value in values.items() if value and (value in raw or base64.b64encode(value) in raw)}
