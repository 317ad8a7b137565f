"""What Argo CD and Flux think of sealed Secrets, and which of their settings that takes (docs/gitops.md)."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import paths, ports
from tests.cluster.processes import Process
from tests.integration.system.reapply.clients import ArgoCD, ArgoCDByServerSideApply, Flux
from tests.integration.system.reapply.values import manifest, opened, sealed
from tests.integration.system.tenant import Tenant

VALUES = {"a": b"plaintext-a", "b": b"plaintext-b"}


@pytest.mark.parametrize("sync", [(), ("--server-side-apply",)], ids=["client-side-apply", "server-side-apply"])
def test_what_argo_cd_thinks(tenant: Tenant, name: str, tmp_path: Path, sync: tuple[str, ...]) -> None:
    """By compare options: whether it says Synced, and whether it sees that a value changed in git."""
    argocd = ArgoCD(tenant.kubectl, tenant.name, tmp_path)
    argocd.sync = sync
    wanted, changed = (manifest(tenant.name, name, VALUES | {"b": value}) for value in (b"plaintext-b", b"plaintext-c"))
    argocd.apply(wanted)
    said = {}
    for compare in (
        "",
        "--ignore-data",
        "--server-side-diff",
        "--server-side-diff --include-mutation-webhook",
        "--server-side-diff --ignore-data",
    ):
        argocd.compare = tuple(compare.split())
        said[compare] = (argocd.in_sync(wanted), not argocd.in_sync(changed))
    assert said == {
        "": (False, True),
        "--ignore-data": (True, False),
        "--server-side-diff": (True, True),
        "--server-side-diff --include-mutation-webhook": (True, True),
        "--server-side-diff --ignore-data": (True, False),
    }


def test_what_flux_says(tenant: Tenant, name: str, tmp_path: Path) -> None:
    flux = Flux(tenant.kubectl, tenant.name, tmp_path)
    one, two = (manifest(tenant.name, f"{name}-{n}", VALUES, "stringData") for n in "ab")
    assert flux.run(one, two) == ["created", "created"]
    assert flux.run(one, two) == ["unchanged", "unchanged"]
    two["stringData"]["b"] = "plaintext-c"
    assert flux.run(one, two) == ["unchanged", "configured"]
    assert flux.run(one, two) == ["unchanged", "unchanged"]


def test_flux_takes_over_from_kubectl_once(tenant: Tenant, name: str, tmp_path: Path) -> None:
    flux = Flux(tenant.kubectl, tenant.name, tmp_path)
    wanted = manifest(tenant.name, name, VALUES)
    tenant.kubectl.run("apply", "-f", "-", input=json.dumps(wanted))
    before = tenant.stored(name)["data"]
    assert flux.run(wanted) == ["configured"]
    assert flux.run(wanted) == ["unchanged"]
    assert tenant.stored(name)["data"] == before


def test_both_on_one_secret(tenant: Tenant, name: str, tmp_path: Path) -> None:
    """Each takes the fields over when it applies, and none finds a reason to."""
    flux = Flux(tenant.kubectl, tenant.name, tmp_path)
    argocd = ArgoCDByServerSideApply(tenant.kubectl, tenant.name, tmp_path)
    wanted = manifest(tenant.name, name, VALUES)
    flux.apply(wanted)
    argocd.apply(wanted)
    before = tenant.stored(name)
    assert flux.run(wanted) == ["unchanged"]
    assert argocd.in_sync(wanted)
    assert tenant.stored(name) == before


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    identity = ("-c", "user.name=member", "-c", "user.email=member@example.com")
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), *identity, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    return folder


class Agent:
    """gitops-engine's own agent: it syncs a folder of manifests at start and whenever it is asked to."""

    def __init__(self, tenant: Tenant, repository: Path) -> None:
        self.port = ports.free()
        self.synced = 0
        self.process = Process("argocd-agent", tenant.keyshred.cluster.directory)
        self.process.log.unlink(missing_ok=True)
        self.process.start(
            [
                *(str(paths.binaries() / "argocd-agent"), str(repository), f"--kubeconfig={tenant.kubectl.kubeconfig}"),
                *("--namespaced", f"--default-namespace={tenant.name}", f"--port={self.port}", "--resync-seconds=3600"),
            ]
        )
        self._wait()

    def sync(self) -> None:
        """Asks for a sync; returns when it is done."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/sync", timeout=60):
            pass
        self._wait()

    def _wait(self) -> None:
        self.synced += 1
        self.process.wait_until(lambda: self.process.log.read_text().count("RESOURCE") >= self.synced)


@pytest.fixture
def agent(tenant: Tenant, repository: Path, name: str) -> Iterator[Agent]:
    """One that has synced the repository's Secret."""
    _commit(repository, tenant, name, VALUES)
    started = Agent(tenant, repository)
    yield started
    started.process.stop()


def _commit(repository: Path, tenant: Tenant, name: str, values: dict[str, bytes]) -> None:
    (repository / "secret.json").write_text(json.dumps(manifest(tenant.name, name, values, "stringData")))


def test_argo_cds_agent(tenant: Tenant, repository: Path, agent: Agent, name: str) -> None:
    before = tenant.stored(name)
    assert sealed(before)
    agent.sync()
    assert tenant.stored(name) == before
    _commit(repository, tenant, name, VALUES | {"b": b"plaintext-c"})
    agent.sync()
    assert opened(tenant, name) == VALUES | {"b": b"plaintext-c"}
    assert tenant.stored(name)["data"]["a"] == before["data"]["a"]
    assert b"plaintext" not in agent.process.log.read_bytes()
