"""A release's life, and Kustomize's generated names."""

from pathlib import Path

from tests.integration.system.reapply.clients import Helm, KustomizeWithHash
from tests.integration.system.reapply.values import manifest, opened, sealed
from tests.integration.system.tenant import Tenant, decoded


def test_upgrade_rollback_and_uninstall(tenant: Tenant, name: str, tmp_path: Path) -> None:
    helm = Helm(tenant.kubectl, tenant.name, tmp_path)
    one = manifest(tenant.name, name, {"a": b"plaintext-a", "b": b"plaintext-b"}, "stringData")
    two = manifest(tenant.name, name, {"a": b"plaintext-a", "b": b"plaintext-c"}, "stringData")
    helm.run("install", name, str(helm.chart(one)))
    first = decoded(tenant.stored(name))
    helm.apply(two)
    second = decoded(tenant.stored(name))
    assert second["a"] == first["a"] and opened(tenant, name)["b"] == b"plaintext-c"
    helm.run("rollback", name, "1")
    third = decoded(tenant.stored(name))
    assert third["a"] == first["a"] and opened(tenant, name)["b"] == b"plaintext-b"
    release = tenant.stored(f"sh.helm.release.v1.{name}.v3")
    assert release["type"] == "helm.sh/release.v1" and not sealed(release)
    helm.run("uninstall", name)
    listed = tenant.kubectl("get", "secrets", f"--namespace={tenant.name}")["items"]
    assert not [s for s in listed if name in s["metadata"]["name"]]


def test_kustomize_names_by_plaintext(tenant: Tenant, name: str, tmp_path: Path) -> None:
    """The hash in the name is one of the plaintext, so the same values make the same name."""
    kustomize = KustomizeWithHash(tenant.kubectl, tenant.name, tmp_path)

    def applied(value: bytes) -> dict[str, str]:
        kustomize.apply(manifest(tenant.name, name, {"a": value}))
        listed = tenant.kubectl("get", "secrets", f"--namespace={tenant.name}")["items"]
        metas = [s["metadata"] for s in listed if s["metadata"]["name"].startswith(name)]
        return {meta["name"]: meta["resourceVersion"] for meta in metas}

    one = applied(b"plaintext-a")
    assert applied(b"plaintext-a") == one
    two = applied(b"plaintext-b")
    assert len(two) == 2 and two.items() > one.items()
    assert {opened(tenant, secret)["a"] for secret in two} == {b"plaintext-a", b"plaintext-b"}
