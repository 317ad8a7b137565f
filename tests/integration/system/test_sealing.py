"""Admission of Secrets by the real API server."""

import base64
import json
from typing import Any

import pytest

from tests.integration.system.tenant import Tenant, decoded, secret


def _version(tenant: Tenant, name: str) -> str:
    return str(tenant.stored(name)["metadata"]["resourceVersion"])


def _apply(tenant: Tenant, manifest: dict[str, Any], *flags: str) -> None:
    tenant.kubectl.run("apply", *flags, "-f", "-", input=json.dumps(manifest))


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_reapplying_changes_nothing(tenant: Tenant, flags: tuple[str, ...]) -> None:
    manifest = secret(tenant.name, "app", {"a": "one", "b": "two", "empty": ""})
    _apply(tenant, manifest, *flags)
    before = _version(tenant, "app")
    _apply(tenant, manifest, *flags)
    assert _version(tenant, "app") == before
    diff = tenant.kubectl.run("diff", *flags, "-f", "-", input=json.dumps(manifest), check=False)
    assert (diff.returncode, diff.stdout) == (0, "")


def test_replace_changes_nothing(tenant: Tenant) -> None:
    manifest = secret(tenant.name, "app", {"a": "one"})
    tenant.kubectl.create(manifest)
    before = decoded(tenant.stored("app")), tenant.stored("app")["metadata"]["annotations"]
    tenant.kubectl.run("replace", "-f", "-", input=json.dumps(manifest))
    assert (decoded(tenant.stored("app")), tenant.stored("app")["metadata"]["annotations"]) == before


def test_apply_prunes_keys_and_keeps_no_plaintext_in_last_applied(tenant: Tenant) -> None:
    # In `data`: kubectl prunes none that came by stringData, sealed or not.
    values = {k: base64.b64encode(f"{k}-plaintext".encode()).decode() for k in ("keep", "drop")}
    _apply(tenant, secret(tenant.name, "app", {}, data=values))
    for plaintext in (b"keep-plaintext", *map(str.encode, values.values())):
        assert plaintext not in tenant.in_etcd("app")
    kept = decoded(tenant.stored("app"))["keep"]
    _apply(tenant, secret(tenant.name, "app", {}, data={"keep": values["keep"]}))
    assert decoded(tenant.stored("app")) == {"keep": kept}


def test_a_changed_value_is_sealed_anew_and_the_others_stay(tenant: Tenant) -> None:
    _apply(tenant, secret(tenant.name, "app", {"a": "one", "b": "two"}))
    before = decoded(tenant.stored("app"))
    _apply(tenant, secret(tenant.name, "app", {"a": "one", "b": "three"}))
    after = decoded(tenant.stored("app"))
    assert after["a"] == before["a"] and after["b"] != before["b"]
    assert tenant.unseal("app") == {"a": "one", "b": "three"}


def test_label_and_annotate_never_reseal(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    before = decoded(tenant.stored("app"))
    tenant.kubectl.run("label", "secret", "app", "-n", tenant.name, "team=red")
    tenant.kubectl.run("annotate", "secret", "app", "-n", tenant.name, "keyshred.dev/envelope-", "note=x")
    stored = tenant.stored("app")
    assert decoded(stored) == before and stored["metadata"]["labels"]["team"] == "red"
    assert tenant.unseal("app") == {"a": "one"}, "the envelope was put back"


def test_the_name_is_chosen_for_generate_name(tenant: Tenant) -> None:
    manifest = secret(tenant.name, "", {"a": "one"}, metadata={"generateName": "app-"})
    del manifest["metadata"]["name"]
    name = tenant.kubectl("create", "-f", "-", input=json.dumps(manifest))["metadata"]["name"]
    assert name.startswith("app-") and len(name) == len("app-") + 5
    assert tenant.unseal(name) == {"a": "one"}


def test_dry_run_seals_and_stores_nothing(tenant: Tenant) -> None:
    manifest = json.dumps(secret(tenant.name, "app", {"a": "plain"}))
    answer = tenant.kubectl("create", "--dry-run=server", "-f", "-", input=manifest)
    assert base64.b64decode(answer["data"]["a"]).startswith(b"KSH1")
    assert tenant.kubectl.run("get", "secret", "app", "-n", tenant.name, check=False).returncode != 0


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("fake", {"a": "KSH1-is-how-it-starts"}, "carries no envelope"),
        ("big", {"a": "x" * (1024 * 1024 - 16)}, "bytes pass the limit of 1048576 bytes"),
        ("many", {f"k{i}": "" for i in range(4097)}, "4096 are the most"),
    ],
)
def test_refused_with_a_reason(tenant: Tenant, name: str, values: dict[str, str], message: str) -> None:
    done = tenant.kubectl.run("create", "-f", "-", input=json.dumps(secret(tenant.name, name, values)), check=False)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert tenant.kubectl.run("get", "secret", name, "-n", tenant.name, check=False).returncode != 0


def test_an_immutable_secret_is_sealed_at_creation_and_stays(tenant: Tenant) -> None:
    manifest = secret(tenant.name, "fixed", {"a": "one"}, immutable=True)
    _apply(tenant, manifest)
    before = _version(tenant, "fixed")
    _apply(tenant, manifest)
    assert _version(tenant, "fixed") == before and tenant.unseal("fixed") == {"a": "one"}
