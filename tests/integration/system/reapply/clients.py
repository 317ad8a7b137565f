"""What people deploy with. Each applies manifests of Secrets to one namespace, and some say whether it is in sync."""

import base64
import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.cluster import paths
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import Kubectl, as_list
from tests.integration.system.tenant import Object

TRACKING: Final = "argocd.argoproj.io/tracking-id"


class Client(ABC):
    """One way to deploy."""

    fields: Sequence[str] = ("stringData", "data")
    """Parts of a manifest that it can bring values in."""

    def __init__(self, kubectl: Kubectl, namespace: str, folder: Path) -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        self.folder = folder

    @abstractmethod
    def apply(self, *manifests: Object) -> None:
        """Brings the namespace to what the manifests say."""

    def in_sync(self, *manifests: Object) -> bool | None:
        """Its own opinion; None where it has none."""
        return None

    def prunes(self, field: str) -> bool:
        """Whether a key that leaves the manifest leaves the Secret."""
        # As without keyshred: what is sent names stringData, and what is in data stays.
        return field == "data"


class ClientSideApply(Client):
    """`kubectl apply`."""

    flags: tuple[str, ...] = ()

    def apply(self, *manifests: Object) -> None:
        self.kubectl.run("apply", *self.flags, "-f", "-", input=as_list(manifests))

    def in_sync(self, *manifests: Object) -> bool:
        done = self.kubectl.run("diff", *self.flags, "-f", "-", input=as_list(manifests), check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0


class ServerSideApply(ClientSideApply):
    """`kubectl apply --server-side`."""

    flags: tuple[str, ...] = ("--server-side",)


class ForcedServerSideApply(ServerSideApply):
    """`kubectl apply --server-side --force-conflicts`."""

    flags = ("--server-side", "--force-conflicts")


class Replace(Client):
    """`kubectl create`, then `kubectl replace`, as one field manager: else the first replace takes the fields over."""

    def apply(self, *manifests: Object) -> None:
        rest = ("--field-manager=people", "-f", "-")
        if self.kubectl.run("create", *rest, input=as_list(manifests), check=False).returncode != 0:
            self.kubectl.run("replace", *rest, input=as_list(manifests))

    def prunes(self, field: str) -> bool:
        return True


class Helm(Client):
    """`helm upgrade --install` of a chart whose templates are the manifests, as a release."""

    def apply(self, *manifests: Object) -> None:
        self.run("upgrade", "--install", self.release(manifests), str(self.chart(*manifests)))

    def release(self, manifests: Sequence[Object]) -> str:
        """Named like the first Secret."""
        return str(manifests[0]["metadata"]["name"])

    def chart(self, *manifests: Object) -> Path:
        """Writes the chart."""
        chart = self.folder / "chart"
        (chart / "templates").mkdir(parents=True, exist_ok=True)
        (chart / "Chart.yaml").write_text('{"apiVersion": "v2", "name": "app", "version": "1.0.0"}')
        (chart / "templates" / "all.yaml").write_text("\n---\n".join(map(json.dumps, manifests)))
        return chart

    def run(self, *arguments: str) -> str:
        """Runs helm; returns what it prints."""
        flags = (f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={self.namespace}")
        home = {f"HELM_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        return run("helm", *flags, *arguments, env=home)


class HelmTemplate(Helm):
    """`helm template | kubectl apply -f -`."""

    def apply(self, *manifests: Object) -> None:
        self.kubectl.run("apply", "-f", "-", input=self._rendered(*manifests))

    def in_sync(self, *manifests: Object) -> bool:
        return self.kubectl.run("diff", "-f", "-", input=self._rendered(*manifests), check=False).returncode == 0

    def _rendered(self, *manifests: Object) -> str:
        return self.run("template", self.release(manifests), str(self.chart(*manifests)))


class Kustomize(Client):
    """`kubectl apply -k` with a secretGenerator."""

    fields = ("data",)
    suffix = False

    def apply(self, *manifests: Object) -> None:
        self.kubectl.run("apply", "-k", str(self._kustomization(*manifests)))

    def in_sync(self, *manifests: Object) -> bool:
        return self.kubectl.run("diff", "-k", str(self._kustomization(*manifests)), check=False).returncode == 0

    def _kustomization(self, *manifests: Object) -> Path:
        generators = []
        for manifest in manifests:
            secret = manifest["metadata"]["name"]
            files = []
            for key, value in manifest["data"].items():
                (self.folder / f"{secret}.{key}").write_bytes(base64.b64decode(value))
                files.append(f"{key}={secret}.{key}")
            generators.append({"name": secret, "files": files})
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "generatorOptions": {"disableNameSuffixHash": not self.suffix},
            "secretGenerator": generators,
        }
        (self.folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        return self.folder


class KustomizeWithHash(Kustomize):
    """As Kustomize does by default: the name ends in a hash of the values."""

    suffix = True


class ArgoCD(Client):
    """Argo CD with ServerSideDiff=true: what docs/gitops.md asks for."""

    compare: tuple[str, ...] = ("--server-side-diff",)
    sync: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()

    def apply(self, *manifests: Object) -> None:
        self._run("--sync", manifests=manifests)

    def in_sync(self, *manifests: Object) -> bool:
        return self._run(manifests=manifests) == ""

    @property
    def application(self) -> str:
        """Prunes what is its own alone."""
        return self.folder.name

    def _tracked(self, manifest: Object) -> dict[str, Any]:
        """The manifest as Argo CD's repository server hands it out."""
        meta = manifest["metadata"]
        identity = f"{self.application}:/Secret:{self.namespace}/{meta['name']}"
        return dict(manifest) | {
            "metadata": dict(meta) | {"annotations": {TRACKING: identity} | meta.get("annotations", {})}
        }

    def _run(self, *flags: str, manifests: Sequence[Object]) -> str:
        common = (f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={self.namespace}")
        text = "\n---\n".join(json.dumps(self._tracked(manifest)) for manifest in manifests)
        return run(
            "argocd",
            *common,
            f"--application={self.application}",
            *self.compare,
            *self.sync,
            *self.scope,
            *flags,
            input=text,
        )


class ArgoCDByServerSideApply(ArgoCD):
    """As above, and with ServerSideApply=true."""

    sync = ("--server-side-apply",)


class ArgoCDByDefault(ArgoCD):
    """With no setting at all, which compares by last-applied: not for sealed Secrets."""

    compare = ()


class Flux(Client):
    """Flux's kustomize-controller. Its opinion is what it says of an apply."""

    def apply(self, *manifests: Object) -> None:
        self.run(*manifests)

    def run(self, *manifests: Object) -> list[str]:
        """Applies; returns what was done with each: created, configured or unchanged."""
        flags = (f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={self.namespace}")
        lines = run("flux", *flags, input="\n---\n".join(map(json.dumps, manifests))).splitlines()
        return [line.rpartition(" ")[2] for line in lines]

    def prunes(self, field: str) -> bool:
        return True  # it moves stringData into data first


def run(binary: str, *arguments: str, input: str = "", env: Mapping[str, str] | None = None) -> str:
    """Runs one of the clients; returns what it prints. Errors: ClusterError with its message."""
    __tracebackhide__ = True  # arguments and input may hold values
    done = subprocess.run(
        [paths.binaries() / binary, *arguments],
        env=os.environ | (env or {}),
        input=input,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"{binary}: {done.stderr.strip()}")
    return done.stdout
