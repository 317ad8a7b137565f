"""Builds the Go binaries into the cache, each once: `python3 -m tests.cluster.build NAME...` (standard library only).

A binary is built again when its stamp, a hash of everything that goes into it, no longer fits.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tests.cluster import paths, versions
from tests.cluster.errors import ClusterError

_PROGRESS_SECONDS: Final = 10


@dataclass(frozen=True, eq=False)
class Tool:
    """What is built from one go.mod."""

    name: str
    modules: Mapping[str, str]
    """Go modules that are pinned, and their versions."""
    packages: Mapping[str, str]
    """Binary name to Go package; those of the tool's own module lie in folders beside its go.mod."""
    variables: Mapping[str, str]
    """Go string variables that the linker sets."""
    cold: str
    """What the first build takes on two cores, for the one who waits."""
    tags: str = ""
    """Go build tags; with one, C is compiled too."""
    own: str = ""
    """Path of the tool's own module, where it has to be within another's to see what is internal there."""

    @property
    def directory(self) -> Path:
        """Folder of go.mod, go.sum and tools.go."""
        return Path(__file__).parent / "go" / self.name

    @property
    def module(self) -> str:
        """The Go module of `directory`."""
        return self.own or f"keyshred.dev/tests/{self.name}"

    def stamp(self, binary: str) -> str:
        """Hash of everything that decides the bytes of `binary`, but for the Go release."""
        package = self.packages[binary]
        inputs = [(self.directory / name).read_bytes() for name in ("go.mod", "go.sum")]
        inputs += [text.encode() for text in (package, self.ldflags, self.tags) if text]
        if package.startswith(self.module + "/"):
            sources = (self.directory / package.removeprefix(self.module + "/")).rglob("*.go")
            inputs += [source.read_bytes() for source in sorted(sources)]
        return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in inputs)).hexdigest()

    @property
    def ldflags(self) -> str:
        """Flags of the linker: no debug information, and the variables."""
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.variables.items())])


def _kubernetes_variables(version: str) -> dict[str, str]:
    # Unset, the server calls itself v0.0.0 and kubectl and Helm decide wrongly.
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}


def _helm_variables(version: str) -> dict[str, str]:
    # Unset, Helm takes a cluster that it cannot ask for one of v1.20.
    major, minor, _ = version.removeprefix("v").split(".")
    return {
        f"helm.sh/helm/v3/pkg/{package}.k8sVersion{part}": value
        for package in ("chartutil", "lint/rules")
        for part, value in (("Major", major), ("Minor", minor))
    }


TOOLS: Final = {
    tool.name: tool
    for tool in (
        Tool(
            name="kubernetes",
            modules={"k8s.io/kubernetes": versions.KUBERNETES},
            packages={
                name: f"k8s.io/kubernetes/cmd/{name}"
                for name in (
                    "kube-apiserver",
                    "kubectl",
                    "kube-controller-manager",
                    "kube-scheduler",
                    "kubelet",
                    "kube-proxy",
                )
            },
            variables=_kubernetes_variables(versions.KUBERNETES),
            cold="about 5 minutes",
        ),
        Tool(
            name="etcd",
            modules=dict.fromkeys(("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"), versions.ETCD),
            packages={"etcd": "go.etcd.io/etcd/server/v3", "etcdctl": "go.etcd.io/etcd/etcdctl/v3"},
            variables={},
            cold="about 1 minute",
        ),
        Tool(
            name="coredns",
            modules={"github.com/coredns/coredns": versions.COREDNS},
            packages={"coredns": "github.com/coredns/coredns"},
            variables={},
            cold="about 3 minutes",
        ),
        Tool(
            name="containerd",
            modules={"github.com/containerd/containerd/v2": versions.CONTAINERD},
            packages={
                name: f"github.com/containerd/containerd/v2/cmd/{name}"
                for name in ("containerd", "ctr", "containerd-shim-runc-v2")
            },
            variables={"github.com/containerd/containerd/v2/version.Version": versions.CONTAINERD},
            cold="about 1 minute",
        ),
        Tool(
            name="runc",
            modules={"github.com/opencontainers/runc": versions.RUNC},
            packages={"runc": "github.com/opencontainers/runc"},
            variables={"main.version": versions.RUNC.removeprefix("v")},
            cold="about 20 seconds",
            # Its first steps in a new namespace are C; without the tag it refuses every pod with a seccomp profile.
            tags="seccomp",
        ),
        Tool(
            name="kind",
            modules={"sigs.k8s.io/kind": versions.KIND},
            packages={"kind-config": "sigs.k8s.io/kind/pkg/keyshred/kind-config"},
            variables={},
            cold="seconds",
            own="sigs.k8s.io/kind/pkg/keyshred",
        ),
        Tool(
            name="promql",
            modules={"github.com/prometheus/prometheus": versions.PROMETHEUS},
            packages={"promql": "keyshred.dev/tests/promql/promql"},
            variables={},
            cold="about 30 seconds",
        ),
        # One module for all three: each alone would compile Kubernetes' client libraries at a version of its own.
        Tool(
            name="clients",
            modules={
                "helm.sh/helm/v3": versions.HELM,
                "github.com/argoproj/argo-cd/gitops-engine": versions.ARGOCD_ENGINE,
                "github.com/fluxcd/pkg/ssa": versions.FLUX_SSA,
                "k8s.io/kubernetes": versions.KUBERNETES,
            },
            packages={
                "helm": "helm.sh/helm/v3/cmd/helm",
                "argocd-agent": "github.com/argoproj/argo-cd/gitops-engine/agent",
                "argocd": "keyshred.dev/tests/clients/argocd",
                "flux": "keyshred.dev/tests/clients/flux",
            },
            variables=_kubernetes_variables(versions.KUBERNETES) | _helm_variables(versions.KUBERNETES),
            cold="about 2 minutes",
        ),
    )
}
CONTROL_PLANE: Final = ("kube-apiserver", "kubectl", "etcd", "etcdctl")
NODE: Final = (
    *("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "helm"),
    *(*TOOLS["containerd"].packages, *TOOLS["runc"].packages),
)
"""What a control plane lacks to run pods, and what keyshred is installed with."""
READERS: Final = ("kind-config", "promql")
"""What judges files that others are to read."""
CLIENTS: Final = tuple(TOOLS["clients"].packages)
"""What others deploy with; for tests alone."""


def ensure(names: Iterable[str] = CONTROL_PLANE) -> None:
    """Builds those of the named binaries that are missing or out of date; says so on stderr while it does.

    Errors: ClusterError (no Go, Go too old, a build failed: with its output).
    """
    if not _stale(names):
        return
    paths.binaries().mkdir(parents=True, exist_ok=True)
    with (paths.binaries() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stale = _stale(names)  # another process may have built them while this one waited for the lock
        if stale:
            _check_go()
            _build(stale)


def _stale(names: Iterable[str]) -> dict[Tool, list[str]]:
    """Per tool, the binaries to build."""
    stale: dict[Tool, list[str]] = {}
    for name in dict.fromkeys(names):  # each once, however often it is asked for
        tool = next((tool for tool in TOOLS.values() if name in tool.packages), None)
        if tool is None:
            raise ClusterError(f"no such binary: {name}")
        stamp = _stamp_file(name)
        if not (paths.binaries() / name).exists() or not stamp.exists() or stamp.read_text() != tool.stamp(name):
            stale.setdefault(tool, []).append(name)
    return stale


def _stamp_file(name: str) -> Path:
    return paths.binaries() / f".{name}.stamp"


def _check_go() -> None:
    need = f"Go {versions.GO} or later is needed to build the cluster's binaries (https://go.dev/doc/install)"
    if shutil.which("go") is None:
        raise ClusterError(f"{need}: no go command found")
    # Asked in a module's folder, since there the go command may switch to a newer release by itself.
    folder = TOOLS["kubernetes"].directory
    asked = subprocess.run(["go", "env", "GOVERSION"], cwd=folder, capture_output=True, text=True, check=False)
    found = re.match(r"go(\d+)\.(\d+)", asked.stdout)
    if found is None or (int(found[1]), int(found[2])) < tuple(map(int, versions.GO.split("."))):
        raise ClusterError(f"{need}: {asked.stdout.strip() or asked.stderr.strip()}")


@dataclass(frozen=True)
class _Running:
    title: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]


def _build(stale: Mapping[Tool, list[str]]) -> None:
    """Builds all tools at once: one compiles while another downloads or links."""
    with tempfile.TemporaryDirectory(dir=paths.binaries()) as folder:
        builds = [_start(tool, names, Path(folder)) for tool, names in stale.items()]
        try:
            _wait(builds)
        finally:
            for build in builds:
                if build.process.poll() is None:
                    build.process.terminate()
                    build.process.wait()
                build.output.close()
        for tool, names in stale.items():
            for name in names:
                _stamp_file(name).unlink(missing_ok=True)
                os.replace(Path(folder) / _go_name(tool.packages[name]), paths.binaries() / name)
                _stamp_file(name).write_text(tool.stamp(name))


def _go_name(package: str) -> str:
    """What `go build` calls the binary of `package`: its last part that is not a major version."""
    return re.sub(r"/v\d+$", "", package).rpartition("/")[2]


def _start(tool: Tool, names: list[str], folder: Path) -> _Running:
    title = f"{', '.join(names)} ({tool.name})"
    _say(f"building {title} from source ({tool.cold} on two cores when nothing is cached)")
    output = (folder / f"{tool.name}.log").open("w+b")
    process = subprocess.Popen(
        [
            *("go", "build", "-mod=readonly", f"-tags={tool.tags}", "-ldflags", tool.ldflags, "-o", f"{folder}/"),
            *(tool.packages[name] for name in names),
        ],
        cwd=tool.directory,
        env=os.environ | {"CGO_ENABLED": "1" if tool.tags else "0"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    return _Running(title, process, output)


def _wait(builds: list[_Running]) -> None:
    started = time.monotonic()
    pending = list(builds)
    while pending:
        try:
            pending[0].process.wait(timeout=_PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            _say(f"building {'; '.join(build.title for build in pending)}: {time.monotonic() - started:.0f} s")
        for build in [build for build in pending if build.process.poll() is not None]:
            pending.remove(build)
            if build.process.returncode != 0:
                build.output.seek(0)
                raise ClusterError(f"building {build.title} failed:\n{build.output.read().decode(errors='replace')}")
            _say(f"built {build.title} in {time.monotonic() - started:.0f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        ensure(sys.argv[1:] or CONTROL_PLANE)
    except ClusterError as error:
        sys.exit(str(error))
