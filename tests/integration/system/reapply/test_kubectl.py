"""kubectl edit, and what several field managers do to one Secret."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.system.reapply.values import manifest, opened
from tests.integration.system.tenant import Tenant, decoded

VALUES = {"a": b"plaintext-a", "b": b"plaintext-b"}


def _edit(tenant: Tenant, name: str, script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kubectl edit` with an editor that runs `script` on the file."""
    editor = folder / "editor"
    editor.write_text(f"#!/bin/sh\n{script}\n")
    editor.chmod(0o755)
    monkeypatch.setenv("KUBE_EDITOR", str(editor))
    tenant.kubectl.run("edit", "secret", name, f"--namespace={tenant.name}")


def test_edit_without_a_change(tenant: Tenant, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant.kubectl.create(manifest(tenant.name, name, VALUES))
    before = tenant.stored(name)
    _edit(tenant, name, "true", tmp_path, monkeypatch)
    _edit(tenant, name, 'echo "# looked at" >> "$1"', tmp_path, monkeypatch)
    assert tenant.stored(name) == before


@pytest.mark.parametrize(
    "script",
    [
        f"sed -i 's/^  a: .*/  a: {base64.b64encode(b'edited').decode()}/' \"$1\"",
        "printf 'stringData:\\n  a: edited\\n' >> \"$1\"",
    ],
    ids=["data", "stringData"],
)
def test_edit_of_one_value(
    tenant: Tenant, name: str, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.kubectl.create(manifest(tenant.name, name, VALUES))
    before = tenant.stored(name)
    _edit(tenant, name, script, tmp_path, monkeypatch)
    after = tenant.stored(name)
    assert decoded(after)["b"] == decoded(before)["b"]
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert opened(tenant, name) == VALUES | {"a": b"edited"}


def _owners(tenant: Tenant, name: str) -> dict[str, set[str]]:
    """Field manager to the fields it owns below data, labels and annotations."""
    stored = tenant.kubectl("get", "secret", name, f"--namespace={tenant.name}", "--show-managed-fields")
    owners: dict[str, set[str]] = {}
    for entry in stored["metadata"]["managedFields"]:
        fields: dict[str, Any] = entry["fieldsV1"]
        meta = fields.get("f:metadata", {})
        parts = (fields.get("f:data", {}), meta.get("f:labels", {}), meta.get("f:annotations", {}))
        owners[entry["manager"]] = {key.removeprefix("f:") for part in parts for key in part if key != "."}
    return owners


def test_nobody_owns_what_keyshred_adds(tenant: Tenant, name: str) -> None:
    """So no apply removes it."""
    tenant.kubectl.apply(manifest(tenant.name, name, VALUES, labels={"team": "red"}))
    assert _owners(tenant, name) == {"kubectl": {"a", "b", "team"}}
    tenant.kubectl.apply(manifest(tenant.name, name, VALUES))
    meta = tenant.stored(name)["metadata"]
    assert "keyshred.dev/envelope" in meta["annotations"]
    assert meta["labels"].keys() == {"keyshred.dev/root-key", "keyshred.dev/key-id", "keyshred.dev/key-version"}


def test_a_second_field_manager_conflicts_and_takes_over(tenant: Tenant, name: str) -> None:
    """Natively both would own equal values together: the stated limit."""

    def apply(manager: str, *flags: str) -> str:
        arguments = ("apply", "--server-side", f"--field-manager={manager}", *flags, "-f", "-")
        return tenant.kubectl.run(*arguments, input=json.dumps(wanted), check=False).stderr

    wanted = manifest(tenant.name, name, {"a": b"plaintext-a"})
    apply("first")
    before = decoded(tenant.stored(name))
    assert 'conflict with "first": .data.a' in apply("second")
    assert apply("second", "--force-conflicts") == ""
    assert _owners(tenant, name) == {"second": {"a"}}
    assert 'conflict with "second": .data.a' in apply("first")
    taken = tenant.stored(name)
    assert decoded(taken) == before
    apply("second")
    assert tenant.stored(name) == taken


def test_field_managers_of_different_keys_get_along(tenant: Tenant, name: str) -> None:
    for manager, key in (("first", "a"), ("second", "b")):
        tenant.kubectl.run(
            *("apply", "--server-side", f"--field-manager={manager}", "-f", "-"),
            input=json.dumps(manifest(tenant.name, name, {key: VALUES[key]})),
        )
    assert _owners(tenant, name) == {"first": {"a"}, "second": {"b"}}
    assert opened(tenant, name) == VALUES
