"""Values of every kind and size, dry runs, and guesses, on the real API server."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_LAST_APPLIED, NEVER_SEALED_TYPES
from tests.integration.controller.lab import until
from tests.integration.system.tenant import Tenant, decoded, secret

MIB = 1024 * 1024


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _write(tenant: Tenant, how: str, manifest: Mapping[str, Any]) -> tuple[int, str]:
    done = tenant.kubectl.run(*how.split(), "-f", "-", input=json.dumps(manifest), check=False)
    return done.returncode, done.stderr


def _unsealed(tenant: Tenant, name: str) -> dict[str, bytes]:
    status, body = tenant.ask(name)
    assert status == 200, body
    return {k: base64.b64decode(v) for k, v in body["data"].items()}


def test_values_of_every_kind_come_back_as_they_were(tenant: Tenant) -> None:
    values = {
        "binary": bytes(range(256)),
        "empty": b"",
        "not-utf8": b"\xff\xfe\x00",
        "newlines": b"a\r\nb\n",
        "looks-like-base64": b"S1NIMQ==",
        "large": b"x" * 200_000,
        "a.b_c-D": b"odd key",
    }
    data = {k: _b64(v) for k, v in values.items()}
    # stringData wins over data, and is gone before admission.
    manifest = secret(tenant.name, "app", {"from-string": "text", "empty": ""}, data=data)
    tenant.kubectl.create(manifest)
    stored = decoded(tenant.stored("app"))
    assert {k: len(v) - 32 for k, v in stored.items()} == {k: len(v) for k, v in values.items()} | {"from-string": 4}
    assert _unsealed(tenant, "app") == values | {"from-string": b"text"}
    raw = tenant.in_etcd("app")
    assert not [k for k, v in values.items() if len(v) > 3 and v in raw]


@pytest.mark.parametrize("data", [None, {}, {"a": None}], ids=["no data", "empty data", "a null"])
def test_secrets_with_next_to_nothing_in_them(tenant: Tenant, data: dict[str, Any] | None) -> None:
    manifest = secret(tenant.name, "app", {}) | ({} if data is None else {"data": data})
    del manifest["stringData"]
    assert _write(tenant, "create", manifest)[0] == 0
    assert tenant.unseal("app") == dict.fromkeys(data or (), "")
    annotations = tenant.stored("app")["metadata"].get("annotations", {})
    assert (ANNOTATION_ENVELOPE in annotations) is bool(data)
    assert _write(tenant, "replace", secret(tenant.name, "app", {"a": "one"})) == (0, "")
    assert all(v.startswith(b"KSH1") for v in decoded(tenant.stored("app")).values())


def test_size_is_told_with_numbers(tenant: Tenant) -> None:
    over = secret(tenant.name, "app", {"a": "x" * (MIB - 64), "b": "y" * 48})
    code, said = _write(tenant, "create", over)
    assert code != 0
    assert "sealing adds 32 bytes to each of 2 values: 1048560 + 64 bytes pass the limit of 1048576 bytes" in said
    assert "by 48" in said and "xxx" not in said
    fits = secret(tenant.name, "app", {"a": "x" * (MIB - 80), "b": "y" * 16})
    assert _write(tenant, "create", fits) == (0, "")
    assert len(tenant.unseal("app")["a"]) == MIB - 80
    assert _write(tenant, "replace", fits) == (0, ""), "the old bytes take its place, so it fits again"


def test_4096_keys_are_sealed_and_one_more_is_refused_on_update_too(tenant: Tenant) -> None:
    many = {f"k{i}": "" for i in range(4096)}
    tenant.kubectl.create(secret(tenant.name, "app", many))
    assert len(tenant.unseal("app")) == 4096
    code, said = _write(tenant, "replace", secret(tenant.name, "app", many | {"more": ""}))
    assert code != 0 and "has 4097 keys" in said
    assert len(decoded(tenant.stored("app"))) == 4096


def test_a_value_that_looks_sealed_is_refused_on_update_too(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    for value in ("KSH1", "KSH1" + "x" * 40):
        patch = json.dumps({"stringData": {"b": value}})
        done = tenant.kubectl.run(
            "patch", "secret", "app", "-n", tenant.name, "--type=merge", f"--patch={patch}", check=False
        )
        assert "data[b] is sealed but does not open" in done.stderr
    assert tenant.unseal("app") == {"a": "one"}


@pytest.mark.parametrize("kind", sorted(NEVER_SEALED_TYPES - {"kubernetes.io/service-account-token"}))
def test_types_that_others_must_read_are_stored_as_they_are(tenant: Tenant, kind: str) -> None:
    values = {
        "kubernetes.io/dockercfg": {".dockercfg": b"{}"},
        "kubernetes.io/dockerconfigjson": {".dockerconfigjson": b"{}"},
    }
    data = {k: _b64(v) for k, v in values.get(kind, {"a": b"one"}).items()}
    tenant.kubectl.create(secret(tenant.name, "app", {}, type=kind, data=data))
    assert tenant.stored("app")["data"] == data


def test_dry_runs_leave_nothing_behind(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    before = tenant.stored("app")
    for how, values in (("apply --server-side --force-conflicts", {"a": "two"}), ("replace", {"a": "two", "b": "3"})):
        assert _write(tenant, f"{how} --dry-run=server", secret(tenant.name, "app", values)) == (0, "")
    code, _ = _write(tenant, "apply --dry-run=server", secret(tenant.name, "new", {"a": "one"}))
    assert code == 0
    tenant.kubectl.run("delete", "secret", "app", "-n", tenant.name, "--dry-run=server")
    assert tenant.stored("app") == before
    assert [s["metadata"]["name"] for s in tenant.kubectl("get", "secrets", "-n", tenant.name)["items"]] == ["app"]


def test_last_applied_shows_keys_and_no_values(tenant: Tenant) -> None:
    for name, fields in (
        ("data", {"data": {"a": _b64(b"plaintext-a")}}),
        ("text", {"stringData": {"a": "plaintext-a"}}),
    ):
        manifest = secret(tenant.name, name, {}) | fields
        for _ in range(2):
            assert _write(tenant, "apply", manifest)[0] == 0
            applied = json.loads(tenant.stored(name)["metadata"]["annotations"][ANNOTATION_LAST_APPLIED])
            assert (applied.get("data") or applied.get("stringData")) == {"a": ""}
        assert b"plaintext-a" not in tenant.in_etcd(name) and _b64(b"plaintext-a").encode() not in tenant.in_etcd(name)
    # Not only kubectl's own: whatever stands there.
    note = json.dumps({"data": {"a": _b64(b"plaintext-a")}})
    tenant.kubectl.run(
        "annotate", "secret", "data", "-n", tenant.name, "--overwrite", f"{ANNOTATION_LAST_APPLIED}={note}"
    )
    assert _b64(b"plaintext-a").encode() not in tenant.in_etcd("data")


def test_an_immutable_secret_changes_in_nothing_but_its_metadata(tenant: Tenant) -> None:
    tenant.kubectl.create(secret(tenant.name, "app", {"a": "one"}, immutable=True))
    before = tenant.stored("app")
    tenant.kubectl.run("label", "secret", "app", "-n", tenant.name, "team=red")
    code, said = _write(tenant, "replace", secret(tenant.name, "app", {"a": "two"}, immutable=True))
    assert code != 0 and "immutable" in said
    assert _write(tenant, "replace", secret(tenant.name, "app", {"a": "one"}, immutable=True)) == (0, "")
    assert decoded(tenant.stored("app")) == decoded(before)


def test_guesses_are_limited(tenant: Tenant) -> None:
    """After ten wrong ones a right one is sealed afresh like them. Dry runs count: they tell as much."""
    tenant.create_secret("app", pin="1234")
    before = decoded(tenant.stored("app"))["pin"]

    def found(guess: str) -> bool:
        manifest = json.dumps(secret(tenant.name, "app", {"pin": guess}))
        answer = tenant.kubectl("replace", "--dry-run=server", "-f", "-", input=manifest)
        return base64.b64decode(answer["data"]["pin"]) == before

    for guess in range(9):
        assert not found(f"{guess:04}")
    assert found("1234"), "nine wrong ones are allowed"
    # Each worker counts for itself, so it may take twice as many.
    until(lambda: not found("0000") and not found("1234"))
    # Someone else may still guess, and what is applied is stored all the same.
    manifest = json.dumps(secret(tenant.name, "app", {"pin": "1234"}))
    tenant.kubectl.run("replace", "-f", "-", input=manifest)
    assert tenant.unseal("app") == {"pin": "1234"} and decoded(tenant.stored("app"))["pin"] != before
