"""Namespaces, RootKeys and KeyAuthorizations that are deployed like everything else."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.system.reapply import clients
from tests.integration.system.reapply.clients import ArgoCD, Client, Helm, Replace
from tests.integration.system.tenant import Object, Tenant, authorization, root_key

KINDS = ("namespace", "rootkey", "keyauthorization")


def _manifests(name: str) -> list[Object]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "red"}}}
    return [namespace, root_key(name), authorization(name, [name])]


def _stored(tenant: Tenant, name: str) -> list[dict[str, Any]]:
    return [tenant.kubectl("get", kind, name) for kind in KINDS]


@pytest.mark.parametrize(
    "client",
    [
        clients.ClientSideApply,
        clients.ServerSideApply,
        clients.Helm,
        clients.ArgoCD,
        clients.ArgoCDByDefault,
        clients.Flux,
    ],
    indirect=True,
)
def test_keyshreds_own_resources_and_namespaces(tenant: Tenant, client: Client, name: str) -> None:
    """What is stamped on them in admission and by the controller stays, and is no drift."""
    wanted = _manifests(name)
    client.apply(*wanted)
    ready = ("wait", "--for=condition=Ready", "--timeout=180s", f"rootkey/{name}", f"keyauthorization/{name}")
    tenant.kubectl.run(*ready)
    before = _stored(tenant, name)
    assert before[0]["metadata"]["labels"]["keyshred.dev/sealing"] == "enabled"
    client.apply(*wanted)
    assert client.in_sync(*wanted) in (True, None)
    after = _stored(tenant, name)
    for old, new in zip(before, after, strict=True):
        # The controller may write a status meanwhile.
        for stored in (old, new):
            del stored["metadata"]["resourceVersion"]
            stored.pop("status")
        assert new == old


def test_argo_cd_prunes_a_root_key_unless_told_not_to(tenant: Tenant, name: str, tmp_path: Path) -> None:
    argocd = ArgoCD(tenant.kubectl, tenant.name, tmp_path)
    rest, kept, pruned = (root_key(f"{name}-{part}") for part in ("rest", "kept", "pruned"))
    kept["metadata"]["annotations"] = {"argocd.argoproj.io/sync-options": "Prune=false"}
    argocd.apply(rest, kept, pruned)
    key_id = tenant.kubectl("get", "rootkey", f"{name}-pruned")["spec"]["keyID"]
    argocd.apply(rest)
    # Not until the object is gone: Argo CD deletes in the foreground, and there is no garbage collector here.
    destroyed = ("wait", "--for=jsonpath={.status.state}=Destroyed", "--timeout=180s", f"keyrecord/{key_id}")
    tenant.kubectl.run(*destroyed)
    assert "deletionTimestamp" not in tenant.kubectl("get", "rootkey", f"{name}-kept")["metadata"]


def test_helm_deletes_a_root_key_unless_told_not_to(tenant: Tenant, name: str, tmp_path: Path) -> None:
    helm = Helm(tenant.kubectl, tenant.name, tmp_path)
    kept, deleted = root_key(f"{name}-kept"), root_key(f"{name}-deleted")
    kept["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    helm.run("install", name, str(helm.chart(kept, deleted)))
    helm.run("uninstall", name)
    tenant.kubectl.run("wait", "--for=delete", f"rootkey/{name}-deleted", "--timeout=180s")
    assert "deletionTimestamp" not in tenant.kubectl("get", "rootkey", f"{name}-kept")["metadata"]


def test_replace_keeps_what_was_stamped(tenant: Tenant, name: str) -> None:
    wanted = [root_key(name), authorization(name, [])]
    replace = Replace(tenant.kubectl, tenant.name, Path())
    replace.apply(*wanted)
    ready = (f"rootkey/{name}", "--for=condition=Ready", "--timeout=180s")
    tenant.kubectl.run("wait", *ready)
    before = [_spec(tenant, kind, name) for kind in ("rootkey", "keyauthorization")]
    replace.apply(*wanted)
    assert [_spec(tenant, kind, name) for kind in ("rootkey", "keyauthorization")] == before


def _spec(tenant: Tenant, kind: str, name: str) -> Object:
    stored = tenant.kubectl("get", kind, name)
    return {"spec": stored["spec"], "finalizers": stored["metadata"].get("finalizers")}
