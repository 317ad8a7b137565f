"""The same manifests twice through each client: the second time nothing changes, later only what has to."""

from pathlib import Path

import pytest

from tests.integration.controller.lab import until
from tests.integration.system.reapply import clients
from tests.integration.system.reapply.clients import Client
from tests.integration.system.reapply.values import Object, leaked, manifest, opened, sealed
from tests.integration.system.tenant import Tenant, authorization, decoded

TEXT = {
    "user": b"plaintext-user",
    "password": b"plaintext-password",
    "lines": b"plaintext\nof $two: lines\n",
    "empty": b"",
}
BINARY = {"binary": bytes(range(256)) + b"plaintext-binary"}
CLIENTS: tuple[type[Client], ...] = (
    clients.ClientSideApply,
    clients.ServerSideApply,
    clients.ForcedServerSideApply,
    clients.Replace,
    clients.Helm,
    clients.HelmTemplate,
    clients.Kustomize,
    clients.ArgoCD,
    clients.ArgoCDByServerSideApply,
    clients.Flux,
)
each = pytest.mark.parametrize(
    ("client", "field"),
    [pytest.param(kind, field, id=f"{kind.__name__}-{field}") for kind in CLIENTS for field in kind.fields],
    indirect=["client"],
)


@each
def test_applied_again_changed_and_pruned(tenant: Tenant, client: Client, field: str, name: str) -> None:
    values = TEXT | (BINARY if field == "data" else {})
    first = manifest(tenant.name, name, values, field)
    client.apply(first)
    before = tenant.stored(name)
    assert sealed(before)
    assert opened(tenant, name) == values

    client.apply(first)
    assert tenant.stored(name) == before
    assert client.in_sync(first) in (True, None)

    changed = dict(values) | {"password": b"plaintext-changed"}
    second = manifest(tenant.name, name, changed, field)
    assert client.in_sync(second) in (False, None)
    client.apply(second)
    kept = decoded(tenant.stored(name))
    assert {key for key in kept if kept[key] != decoded(before)[key]} == {"password"}
    assert opened(tenant, name) == changed

    del changed["user"]
    client.apply(manifest(tenant.name, name, changed, field))
    assert opened(tenant, name).keys() == (changed if client.prunes(field) else values).keys()
    assert {key: decoded(tenant.stored(name))[key] for key in changed} == {key: kept[key] for key in changed}
    assert leaked(tenant, name, values | changed) == set()
    assert client.in_sync(manifest(tenant.name, name, changed, field)) in (True, None)


@pytest.mark.parametrize(
    "client",
    [
        clients.ClientSideApply,
        clients.ForcedServerSideApply,
        clients.Replace,
        clients.Helm,
        clients.Kustomize,
        clients.ArgoCD,
        clients.ArgoCDByServerSideApply,
        clients.Flux,
    ],
    indirect=True,
)
def test_what_somebody_changed_is_put_back(tenant: Tenant, client: Client, name: str) -> None:
    wanted = manifest(tenant.name, name, TEXT)
    client.apply(wanted)
    before = decoded(tenant.stored(name))
    tenant.kubectl.run(
        *("patch", "secret", name, f"--namespace={tenant.name}", "--type=merge"),
        '--patch={"stringData": {"password": "somebody-elses"}}',
    )
    assert opened(tenant, name)["password"] == b"somebody-elses"
    assert client.in_sync(wanted) in (False, None)
    client.apply(wanted)
    assert opened(tenant, name) == TEXT
    after = decoded(tenant.stored(name))
    assert {key for key in after if after[key] != before[key]} == {"password"}
    assert client.in_sync(wanted) in (True, None)


def test_what_was_deployed_before_sealing_stays_in_sync(tenant: Tenant, tmp_path: Path) -> None:
    early = f"{tenant.name}-early"
    tenant.kubectl.run("create", "namespace", early)
    deployed: list[tuple[Client, Object]] = []
    for kind in CLIENTS:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        client = kind(tenant.kubectl, early, folder)
        wanted = manifest(early, kind.__name__.lower(), TEXT, kind.fields[0])
        client.apply(wanted)
        deployed.append((client, wanted))

    def stored(wanted: Object) -> dict[str, object]:
        return dict(tenant.kubectl("get", "secret", wanted["metadata"]["name"], f"--namespace={early}"))

    assert not any(sealed(stored(wanted)) for _, wanted in deployed)
    tenant.kubectl.apply(authorization(early, [early], rootKeyRef={"name": tenant.name}))

    def touched() -> bool:
        """What the sweep does; more than once, since API servers may take a moment to know the namespace's label."""
        names = [f"secret/{wanted['metadata']['name']}" for _, wanted in deployed]
        tenant.kubectl.run("patch", *names, f"--namespace={early}", "--type=merge", "--patch={}")
        return all(sealed(stored(wanted)) for _, wanted in deployed)

    until(touched)
    for client, wanted in deployed:
        before = stored(wanted)
        assert client.in_sync(wanted) in (True, None), client
        client.apply(wanted)
        assert stored(wanted) == before, client
