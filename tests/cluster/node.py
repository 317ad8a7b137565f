"""A whole Kubernetes of one node: a control plane, and containerd, kubelet, kube-proxy and CoreDNS. Root only.

    with Node.temporary("e2e") as node:
        node.kubectl("get", "pods", "--all-namespaces")

One at a time on a machine: the bridge, the addresses and kube-proxy's rules are the machine's.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import yaml

from tests.cluster import build, images, leftovers, packages
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import write_kubeconfig
from tests.cluster.leftovers import BRIDGE
from tests.cluster.paths import binaries
from tests.cluster.processes import Process, stop_all

NAME: Final = "node"
ADDRESS: Final = "10.88.0.1"
"""Of the node: the bridge's, and the pods' gateway."""
_PODS: Final = "10.88.0.0/16"
_DNS: Final = "10.96.0.10"
HOST_FOLDER: Final = Path("/var/lib/keyshred")
"""Where the chart keeps its evaluation token on a node: a folder of the node's own is mounted there."""
KUBELET_FOLDER: Final = Path("/var/lib/kubelet")
"""The kubelet's, where charts look for it; the same."""


class Node(ControlPlane):
    """A control plane with one node."""

    def __init__(self, directory: Path, *, apiserver_flags: Sequence[str] = ()) -> None:
        super().__init__(directory, apiserver_flags=apiserver_flags)
        self.controller_manager = Process("kube-controller-manager", directory)
        self.scheduler = Process("kube-scheduler", directory)
        self.containerd = Process("containerd", directory)
        self.kubelet = Process("kubelet", directory)
        self.proxy = Process("kube-proxy", directory)
        self.token_folder = directory / "host"
        """What is mounted at HOST_FOLDER."""
        self._socket = directory / "containerd.sock"

    def up(self) -> None:
        """Builds and starts what is missing; returns when the node is Ready and names are resolved.

        Errors: ClusterError, also where another node runs on this machine.
        """
        if os.geteuid() != 0:
            raise ClusterError("a node needs root: it makes network devices, mounts and containers")
        packages.ensure(packages.NODE)
        build.ensure((*build.CONTROL_PLANE, *build.NODE))
        # Files of containers are below it, and the root of a pod's user namespace is somebody else here.
        self.directory.chmod(0o711)
        self._claim_machine()
        kubelet_client = self.authority.issue("kubelet-client", "kube-apiserver", organizations=["system:masters"])
        own = [
            "--bind-address=0.0.0.0",
            f"--advertise-address={ADDRESS}",
            "--endpoint-reconciler-type=lease",
            f"--kubelet-client-certificate={kubelet_client.certificate}",
            f"--kubelet-client-key={kubelet_client.key}",
            # By name it would look for this machine's, which is in no DNS here.
            "--kubelet-preferred-address-types=InternalIP",
        ]
        self.apiserver_flags = (*own, *(flag for flag in self.apiserver_flags if flag not in own))
        super().up()
        self._start_controllers()
        self._start_containerd()
        self.start_kubelet()
        self._start_proxy()
        self._start_dns()

    def down(self) -> None:
        """Stops everything, pods too; keeps the state for the next `up`."""
        for process in (self.proxy, self.kubelet):
            process.stop()
        leftovers.kill_containers(self.directory)
        for process in (self.containerd, self.scheduler, self.controller_manager):
            process.stop()
        super().down()
        leftovers.clean(self.directory)

    def cut_power(self) -> None:
        """Kills everything at once, as a power cut would: the next `up` finds what was on the disks."""
        processes = (self.kubelet, self.containerd, self.proxy, self.scheduler, self.controller_manager)
        for process in (*processes, self.apiserver, self.etcd):
            process.kill()
        leftovers.clean(self.directory)
        # On tmpfs on a real machine.
        shutil.rmtree(self.directory / "state", ignore_errors=True)

    def remove(self) -> None:
        """Stops everything that was started in `directory`, and deletes it."""
        leftovers.kill_containers(self.directory)
        stop_all(self.directory)
        leftovers.clean(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def load_image(self, archive: Path) -> None:
        """Imports a docker-archive, as if it had been pulled. Errors: ClusterError."""
        self._ctr("images", "import", str(archive))

    def images(self) -> set[str]:
        """Names of what was imported."""
        return set(self._ctr("images", "list", "--quiet").split())

    def start_kubelet(self) -> None:
        """Starts the kubelet where it does not run; returns when the node is Ready. Errors: ClusterError."""
        pair = self.authority.issue("kubelet", f"system:node:{NAME}", organizations=["system:nodes"], hosts=[ADDRESS])
        # It resolves no names outside the cluster.
        (self.directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "failCgroupV1": False,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [_DNS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "tlsCertFile": str(pair.certificate),
            "tlsPrivateKeyFile": str(pair.key),
            "resolvConf": str(self.directory / "resolv.conf"),
            "syncFrequency": "10s",
            # The machine's disk is shared with much else.
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
        }
        file = self.directory / "kubelet.yaml"
        file.write_text(json.dumps(configuration))
        command = [
            str(binaries() / "kubelet"),
            f"--kubeconfig={self._component('kubelet', f'system:node:{NAME}', 'system:nodes')}",
            f"--config={file}",
            f"--hostname-override={NAME}",
            f"--node-ip={ADDRESS}",
            f"--root-dir={KUBELET_FOLDER}",
            "--v=1",
        ]
        if not self.kubelet.runs(command):
            self.kubelet.start(command)
        self.kubelet.wait_until(self._is_ready)

    def wait_pods(self, namespace: str, *, timeout: int = 120) -> None:
        """Returns when every Deployment of the namespace is rolled out. Errors: ClusterError."""
        self.kubectl.run("rollout", "status", "deployment", f"--namespace={namespace}", f"--timeout={timeout}s")

    def _claim_machine(self) -> None:
        owner = leftovers.owner_of_bridge()
        if owner is not None and owner != self.directory:
            if any(Process(name, owner).pid for name in ("kubelet", "containerd", "etcd")):
                raise ClusterError(
                    f"another node runs on this machine, in {owner}: stop it first (make cluster-down there)"
                )
            leftovers.clean(owner)
        if owner != self.directory:
            for command in (
                ["link", "add", BRIDGE, "type", "bridge"],
                ["link", "set", BRIDGE, "alias", str(self.directory)],
                ["address", "add", f"{ADDRESS}/16", "dev", BRIDGE],
                ["link", "set", BRIDGE, "up"],
            ):
                _run("ip", *command)
        _run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._mount()

    def _mount(self) -> None:
        for folder, point in ((self.directory / "kubelet", KUBELET_FOLDER), (self.token_folder, HOST_FOLDER)):
            folder.mkdir(parents=True, exist_ok=True)
            point.mkdir(parents=True, exist_ok=True)
            if not os.path.ismount(point):
                _run("mount", "--bind", str(folder), str(point))
        # What a CSI driver mounts in its pod has to be seen by the kubelet.
        _run("mount", "--make-shared", str(KUBELET_FOLDER))

    def _start_controllers(self) -> None:
        certificate, key = str(self.authority.certificate), str(self.directory / "pki" / "ca.key")
        manager = [
            str(binaries() / "kube-controller-manager"),
            f"--kubeconfig={self._component('kube-controller-manager', 'system:kube-controller-manager')}",
            f"--service-account-private-key-file={self.authority.key('service-accounts')}",
            f"--root-ca-file={certificate}",
            f"--cluster-signing-cert-file={certificate}",
            f"--cluster-signing-key-file={key}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
        ]
        scheduler = [
            str(binaries() / "kube-scheduler"),
            f"--kubeconfig={self._component('kube-scheduler', 'system:kube-scheduler')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
        ]
        for process, command in ((self.controller_manager, manager), (self.scheduler, scheduler)):
            if not process.runs(command):
                process.start(command)
        self.controller_manager.wait_until(
            lambda: self.kubectl.run("get", "serviceaccount", "default", check=False).returncode == 0
        )

    def _start_containerd(self) -> None:
        network = self.directory / "cni"
        network.mkdir(exist_ok=True)
        ipam = {
            "type": "host-local",
            "dataDir": str(self.directory / "ipam"),
            "ranges": [[{"subnet": _PODS, "rangeStart": "10.88.1.0", "rangeEnd": "10.88.250.0", "gateway": ADDRESS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": BRIDGE, "hairpinMode": True, "ipMasq": False, "ipam": ipam}
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        (network / "10-keyshred.conflist").write_text(
            json.dumps({"cniVersion": "0.4.0", "name": "keyshred", "plugins": plugins})
        )
        cri = "plugins.'io.containerd.cri.v1."
        (self.directory / "containerd.toml").write_text(
            f"""version = 3
root = "{self.directory}/containerd"
state = "{self.directory}/state"
[grpc]
  address = "{self._socket}"
[{cri}images'.pinned_images]
  sandbox = "{images.PAUSE}"
[{cri}runtime']
  # A machine without CAP_SYS_RESOURCE may not lower it.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [{cri}runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{network}"
  [{cri}runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "{binaries() / "containerd-shim-runc-v2"}"
    [{cri}runtime'.containerd.runtimes.runc.options]
      BinaryName = "{binaries() / "runc"}"
"""
        )
        command = [str(binaries() / "containerd"), "--config", str(self.directory / "containerd.toml")]
        if not self.containerd.runs(command):
            self.containerd.start(command)
        self.containerd.wait_until(lambda: self._try_ctr("version") is not None)
        if not {images.PAUSE, images.BUSYBOX, images.COREDNS} <= self.images():
            for archive in images.system(self.directory):
                self.load_image(archive)
                archive.unlink()

    def _start_proxy(self) -> None:
        command = [
            str(binaries() / "kube-proxy"),
            f"--kubeconfig={self._component('kube-proxy', 'system:kube-proxy')}",
            f"--cluster-cidr={_PODS}",
            f"--hostname-override={NAME}",
            "--proxy-mode=iptables",
            # Else an answer from a pod of the same bridge would come past the rules that have to turn it back.
            "--masquerade-all",
            "--conntrack-max-per-core=0",
            "--nodeport-addresses=127.0.0.0/8",
        ]
        if not self.proxy.runs(command):
            self.proxy.start(command)

    def _start_dns(self) -> None:
        text = (Path(__file__).parent / "dns.yaml").read_text().replace("COREDNS_IMAGE", images.COREDNS)
        self.kubectl.apply(*yaml.safe_load_all(text))
        self.wait_pods("kube-system")

    def _component(self, name: str, user: str, *groups: str) -> Path:
        pair = self.authority.issue(name, user, organizations=groups, hosts=[ADDRESS] if name == "kubelet" else ())
        files = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        return write_kubeconfig(self.directory / f"{name}.kubeconfig", self.url, self.authority.certificate, files)

    def _is_ready(self) -> bool:
        ready = "{.status.conditions[?(@.type=='Ready')].status}"
        asked = self.kubectl.run("get", "node", NAME, f"--output=jsonpath={ready}", check=False)
        return asked.stdout == "True"

    def _ctr(self, *arguments: str) -> str:
        done = self._try_ctr(*arguments)
        if done is None:
            raise ClusterError(f"ctr {' '.join(arguments[:2])} failed; see {self.containerd.log}")
        return done

    def _try_ctr(self, *arguments: str) -> str | None:
        command = [str(binaries() / "ctr"), f"--address={self._socket}", "--namespace=k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None


def until(what: str, found: Callable[[], bool], seconds: float = 180) -> None:
    """Returns when it is so. Errors: ClusterError."""
    deadline = time.monotonic() + seconds
    while not found():
        if time.monotonic() > deadline:
            raise ClusterError(f"not after {seconds:.0f} s: {what}")
        time.sleep(0.5)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
