"""A control plane of real parts: etcd and kube-apiserver on loopback.

    with ControlPlane.temporary("demo") as cluster:
        cluster.kubectl("get", "namespaces")

There is no kube-controller-manager: nobody makes the ServiceAccount `default` or the ConfigMap `kube-root-ca.crt`,
nobody collects garbage, and a deleted namespace stays Terminating. Use fresh names instead of cleaning up.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from tests.cluster import accounts, apiserver, build, etcd, paths, pki, ports
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import Kubectl, write_kubeconfig
from tests.cluster.processes import Process, start_time, stop_all

_OWNER: Final = "owner"


class ControlPlane:
    """One control plane whose whole state lives in `directory`, so that another run finds it again.

    Programs that a test or the demo starts beside it may be kept there as well (`Process(name, cluster.directory)`):
    `remove` and the reaping of crashed runs stop those too.
    """

    def __init__(self, directory: Path, *, apiserver_flags: Sequence[str] = ()) -> None:
        """`apiserver_flags` are added to the API server's at its next start; a later one of the same name wins."""
        self.directory = directory
        self.apiserver_flags = tuple(apiserver_flags)
        self.etcd = Process("etcd", directory)
        self.apiserver = Process("kube-apiserver", directory)
        self.etcd_data = directory / "etcd"
        """Folder of etcd's data: what a disk image or a backup of the host would hold."""
        self.kubeconfig = directory / "admin.kubeconfig"
        self.kubectl = Kubectl(self.kubeconfig)
        """kubectl as cluster admin (group system:masters)."""

    @classmethod
    def temporary(cls, name: str, *, apiserver_flags: Sequence[str] = ()) -> Self:
        """One that belongs to this process, in a folder of its own. Also removes those whose owner crashed."""
        reap()
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=paths.run()))
        new = directory / f"{_OWNER}.new"
        new.write_text(f"{os.getpid()} {start_time(os.getpid())}")
        # In one step: another process may be looking for what is left over.
        new.rename(directory / _OWNER)
        return cls(directory, apiserver_flags=apiserver_flags)

    def __enter__(self) -> Self:
        """`up`; cleans up after itself where that fails."""
        try:
            self.up()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def up(self) -> None:
        """Builds and starts what is missing; returns when the API server is ready. What runs already is left alone.

        Errors: ClusterError.
        """
        build.ensure()
        self.start_etcd()
        self.start_apiserver()

    def down(self) -> None:
        """Stops both; keeps the state for the next `up`."""
        self.apiserver.stop()
        self.etcd.stop()

    def remove(self) -> None:
        """Stops everything that was started in `directory`, and deletes it."""
        stop_all(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_etcd(self) -> None:
        """Starts etcd where it does not run; returns when it serves. Errors: ClusterError."""
        client, peer = self._port("etcd", self.etcd), self._port("etcd-peer", self.etcd)
        command = etcd.command(self.etcd_data, client, peer)
        if not self.etcd.runs(command):
            self.etcd.start(command)
        self.etcd.wait_until(lambda: etcd.is_ready(client))

    def stop_etcd(self) -> None:
        """Stops etcd alone: the API server runs on and answers errors."""
        self.etcd.stop()

    def start_apiserver(self, flags: Sequence[str] | None = None) -> None:
        """Starts the API server where it does not run with these flags; returns when it is ready.

        `flags`, if given, replace `apiserver_flags` from now on. Errors: ClusterError.
        """
        if flags is not None:
            self.apiserver_flags = tuple(flags)
        admin = self.authority.issue("admin", "test-admin", organizations=["system:masters"])
        port = self._port("apiserver", self.apiserver)
        command = apiserver.command(port, self.etcd_url, self.authority, self.apiserver_flags)
        if not self.apiserver.runs(command):
            self.apiserver.start(command)
        self._write_kubeconfig(self.kubeconfig, admin)
        self.apiserver.wait_until(lambda: apiserver.is_ready(port, self.authority, admin))

    def stop_apiserver(self) -> None:
        """Stops the API server alone; it comes back at the same address."""
        self.apiserver.stop()

    @cached_property
    def authority(self) -> pki.Authority:
        """The cluster's certificate authority; it also issues what a webhook of a test serves with."""
        return pki.Authority(self.directory / "pki")

    @property
    def url(self) -> str:
        """Where the API server is."""
        return apiserver.url(self._port("apiserver", self.apiserver))

    @property
    def etcd_url(self) -> str:
        """Where etcd is: without TLS, for whoever is on this machine."""
        return etcd.url(self._port("etcd", self.etcd))

    def etcdctl(self, *arguments: str) -> bytes:
        """Runs etcdctl; returns what it prints. Errors: ClusterError."""
        command = [str(paths.binaries() / "etcdctl"), f"--endpoints={self.etcd_url}", *etcd.PATIENCE, *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"etcdctl {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def etcd_raw(self, prefix: str = "") -> dict[str, bytes]:
        """Every key that starts with `prefix` (`/registry/secrets/NS/NAME`) and its value as stored in etcd.

        Errors: ClusterError.
        """
        answer = json.loads(self.etcdctl("get", prefix, "--prefix", "--write-out=json"))
        return {
            base64.b64decode(pair["key"]).decode(): base64.b64decode(pair["value"]) for pair in answer.get("kvs", ())
        }

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a user who proves the name and the groups by a client certificate."""
        name = "-".join(quote(part, safe="") for part in ("user", user, *groups))
        pair = self.authority.issue(name, user, organizations=groups)
        return self._write_kubeconfig(self.directory / f"{name}.kubeconfig", pair)

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig for a ServiceAccount that exists, with a token for 24 hours. Errors: ClusterError."""
        token = accounts.token(self.kubectl, namespace, name, seconds=24 * 3600)
        path = self.directory / f"{namespace}-{name}.kubeconfig"
        return write_kubeconfig(path, self.url, self.authority.certificate, {"token": token})

    def save_logs(self) -> Path:
        """Copies the logs to where they outlive `remove`; returns that folder."""
        destination = paths.failures() / self.directory.name
        destination.mkdir(parents=True, exist_ok=True)
        for log in self.directory.glob("*.log"):
            shutil.copy(log, destination)
        return destination

    def _write_kubeconfig(self, path: Path, user: pki.Pair) -> Path:
        files = {"client-certificate": str(user.certificate), "client-key": str(user.key)}
        return write_kubeconfig(path, self.url, self.authority.certificate, files)

    def _port(self, name: str, process: Process) -> int:
        """The port written down for `name`; another one where `process` is gone and somebody else took it."""
        file = self.directory / f"{name}.port"
        if file.exists():
            port = int(file.read_text())
            if process.pid is not None or ports.is_free(port):
                return port
        port = ports.free()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(port))
        return port


def reap() -> None:
    """Removes the temporary clusters whose owner is gone without having done so."""
    paths.run().mkdir(parents=True, exist_ok=True)
    for owner in paths.run().glob(f"*/{_OWNER}"):
        try:
            pid, started = owner.read_text().split()
        except FileNotFoundError:
            continue  # removed by its own or by another run just now
        if start_time(int(pid)) != started:
            ControlPlane(owner.parent).remove()
