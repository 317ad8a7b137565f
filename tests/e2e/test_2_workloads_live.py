"""Pods with sealed Secrets while things change: updates, destruction, and parts that are killed."""

import base64
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import images
from tests.cluster.chart import NAMESPACE
from tests.cluster.node import Node, until
from tests.e2e import pods
from tests.e2e.installed import NODE, Installed
from tests.integration.system.tenant import READER, Tenant

REPUBLISHED = 150.0
"""Seconds: the kubelet looks at volumes again within 60 to 90 s, and half of that more on a busy machine."""


class Consumers:
    """Pods of one tenant."""

    def __init__(self, node: Node, tenant: Tenant) -> None:
        self.node, self.tenant, self.kubectl = node, tenant, node.kubectl

    def create(self, *manifests: dict[str, Any]) -> None:
        self.kubectl.create(*manifests)

    def mounting(self, name: str, *secrets: str, **spec: Any) -> dict[str, Any]:
        return pods.mounting(self.tenant.name, name, *secrets, serviceAccountName=READER, **spec)

    def start(self, name: str, *secrets: str, **spec: Any) -> None:
        self.create(self.mounting(name, *secrets, **spec))
        self.wait(name)

    def wait(self, *names: str) -> None:
        pods.wait_running(self.kubectl, self.tenant.name, *names)

    def says(self, name: str, script: str) -> str:
        return pods.run(self.kubectl, self.tenant.name, name, script)

    def events(self, name: str) -> str:
        return pods.events(self.kubectl, self.tenant.name, name)

    def set(self, name: str, **values: str) -> None:
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        patch = json.dumps({"data": data})
        self.kubectl.run("patch", "secret", name, f"--namespace={self.tenant.name}", "--type=merge", "-p", patch)

    def gone(self, *names: str) -> None:
        command = ("delete", "pod", *names, f"--namespace={self.tenant.name}", "--timeout=180s")
        self.kubectl.run(*command)


@pytest.fixture
def consumers(node: Node, tenant: Tenant) -> Iterator[Consumers]:
    made = Consumers(node, tenant)
    yield made
    node.kubectl.run("delete", "pods", "--all", f"--namespace={tenant.name}", "--timeout=180s")


def with_variable(manifest: dict[str, Any], secret: str, key: str) -> dict[str, Any]:
    """The pod with a variable, A, in a container that ends when it is told to and starts again."""
    container = manifest["spec"]["containers"][0]
    container["env"] = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}]
    container["command"] = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]
    manifest["spec"]["restartPolicy"] = "Always"
    return manifest


def container_status(consumers: Consumers, name: str) -> dict[str, Any]:
    found: dict[str, Any] = consumers.kubectl("get", "pod", name, f"--namespace={consumers.tenant.name}")
    return dict(found["status"]["containerStatuses"][0])


def wait_for_copy(consumers: Consumers, name: str, path: str, value: bytes) -> None:
    """Returns when a container that starts again would have that value. It looks where the kubelet does."""
    uid = consumers.kubectl("get", "pod", name, f"--namespace={consumers.tenant.name}")["metadata"]["uid"]
    copy = Path("/var/lib/kubelet/pods", uid, "volumes/kubernetes.io~empty-dir/keyshred-env", path)
    until(f"{path} of {name} has followed", lambda: copy.read_bytes() == value, REPUBLISHED)


def _driver(installed: Installed) -> int:
    """Pid of the driver's process."""
    found = [p for p in os.listdir("/proc") if p.isdecimal() and b"keyshred\0node\0" in _command(p)]
    assert len(found) == 1
    return int(found[0])


def _command(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_updates_reach_running_pods_and_what_is_optional_comes_and_goes(consumers: Consumers) -> None:
    tenant = consumers.tenant
    tenant.create_secret("app", a="first", b="stays")
    late = {"name": "late", "secret": {"secretName": "late", "optional": True}}
    mounted = consumers.mounting("reads", "app")
    mounted["spec"]["volumes"].append(late)
    mounted["spec"]["containers"][0]["volumeMounts"].append({"name": "late", "mountPath": "/seen/late"})
    consumers.create(with_variable(mounted, "app", "a"))
    consumers.wait("reads")
    assert consumers.says("reads", "cat /seen/app/a; ls /seen/late; echo $A") == "firstfirst\n"

    consumers.set("app", a="second", c="new")
    tenant.create_secret("late", k="here")

    def now() -> str:
        return consumers.says("reads", "cat /seen/app/a /seen/app/b /seen/app/c /seen/late/k 2>/dev/null; true")

    until("both changes are seen", lambda: now() == "secondstaysnewhere", REPUBLISHED)
    wait_for_copy(consumers, "reads", "app/a", b"V='second'\n")
    assert consumers.says("reads", "echo $A; kill 1") == "first\n", "a process keeps its environment, as natively"
    until("its container starts again", lambda: container_status(consumers, "reads")["restartCount"] == 1)
    consumers.wait("reads")
    assert consumers.says("reads", "echo $A") == "second\n"
    consumers.kubectl.run("delete", "secret", "late", f"--namespace={tenant.name}")
    until("what is optional is gone", lambda: consumers.says("reads", "ls /seen/late") == "", REPUBLISHED)
    assert consumers.says("reads", "cat /seen/app/a") == "second"


def test_a_shredded_key_empties_running_pods_and_others_notice_nothing(
    consumers: Consumers, node: Node, installed: Installed
) -> None:
    tenant = consumers.tenant
    other = Consumers(node, Tenant.create_with_key_first(installed))
    for one in (consumers, other):
        one.tenant.create_secret("app", a="until-it-is-shredded")
        manifest = one.mounting("reads", "app")
        mount = {"name": "v0", "mountPath": "/seen/file", "subPath": "a"}
        manifest["spec"]["containers"][0]["volumeMounts"].append(mount)
        one.create(with_variable(manifest, "app", "a"))
        one.wait("reads")
    look = "cat /seen/app/a /seen/file 2>/dev/null; true"
    assert consumers.says("reads", look) == "until-it-is-shredded" * 2

    tenant.delete_key()

    assert tenant.ask("app")[0] == 410
    until("its files are gone", lambda: consumers.says("reads", look) == "", REPUBLISHED)
    assert consumers.says("reads", "ls /seen/app; stat -c %s /seen/file") == "0\n", "a subPath keeps its inode, empty"
    assert other.says("reads", look) == "until-it-is-shredded" * 2
    wait_for_copy(consumers, "reads", "app/a", b"")
    consumers.says("reads", "kill 1")
    until("it starts no more", lambda: "CreateContainerConfigError" in json.dumps(container_status(consumers, "reads")))
    assert "destroyed" in consumers.events("reads")
    consumers.create(consumers.mounting("late", "app"))
    until("a new pod is told", lambda: "destroyed" in consumers.events("late"))
    other.gone("reads")


def test_suspended_files_stay_and_new_pods_wait(consumers: Consumers) -> None:
    tenant = consumers.tenant
    tenant.create_secret("app", a="one")
    consumers.start("reads", "app")

    def suspend(value: bool) -> None:
        patch = json.dumps({"spec": {"suspended": value}})
        consumers.kubectl.run("patch", "rootkey", tenant.name, "--type=merge", "-p", patch)

    suspend(True)
    until("nothing is unsealed", lambda: tenant.ask("app")[0] == 403)
    consumers.create(consumers.mounting("waits", "app"))
    until("an Event tells why", lambda: "is Suspended" in consumers.events("waits"))
    assert consumers.says("reads", "cat /seen/app/a") == "one"
    suspend(False)
    consumers.wait("waits")
    assert consumers.says("waits", "cat /seen/app/a") == "one"


def _kill_driver(node: Node, installed: Installed) -> Callable[[], None]:
    os.kill(_driver(installed), signal.SIGKILL)
    return lambda: None


def _kill_kubelet(node: Node, installed: Installed) -> Callable[[], None]:
    node.kubelet.kill()
    return node.start_kubelet


def _stop_webhook(node: Node, installed: Installed) -> Callable[[], None]:
    def scale(replicas: int) -> None:
        command = ("scale", "deployment", "keyshred-webhook", f"--namespace={NAMESPACE}", f"--replicas={replicas}")
        node.kubectl.run(*command)

    scale(0)
    until("no webhook is left", lambda: not installed.pods("webhook"))

    def back() -> None:
        scale(2)
        installed.wait_rolled_out()

    return back


@pytest.mark.parametrize("end", [_kill_driver, _kill_kubelet, _stop_webhook])
def test_running_pods_keep_their_files_new_ones_wait_and_then_start(
    consumers: Consumers, node: Node, installed: Installed, end: Callable[[Node, Installed], Callable[[], None]]
) -> None:
    consumers.tenant.create_secret("app", a="one")
    consumers.start("before", "app")
    late = consumers.mounting("during", "app")
    if end is _stop_webhook:
        # Not created while nobody can change it; this one was, and waits for its volume.
        late["spec"]["schedulingGates"] = [{"name": "example.com/later"}]
        consumers.create(late)
    back = end(node, installed)
    if end is _stop_webhook:
        gates = json.dumps({"spec": {"schedulingGates": None}})
        consumers.kubectl.run("patch", "pod", "during", f"--namespace={consumers.tenant.name}", "-p", gates)
        until("its volume is waited for", lambda: "FailedMount" in consumers.events("during"))
    else:
        consumers.create(late)
        assert end is _kill_kubelet or consumers.says("before", "cat /seen/app/a") == "one"
    back()
    consumers.wait("before", "during")
    for name in ("before", "during"):
        assert consumers.says(name, "cat /seen/app/a") == "one"
    consumers.set("app", a="two")
    until("updates go on", lambda: consumers.says("before", "cat /seen/app/a") == "two", REPUBLISHED)
    consumers.gone("before", "during")
    assert not [m for m in _tmpfs() if consumers.tenant.name in m]


def _tmpfs() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line for line in file if "kubernetes.io~csi" in line]


@contextmanager
def _no_traffic_of_tenants(installed: Installed) -> Iterator[None]:
    """As a NetworkPolicy that denies everything would have it: the network of these tests enforces none."""
    own = [p for n in (NAMESPACE, "kube-system") for p in installed.kubectl("get", "pods", "-n", n)["items"]]
    addresses = [p["status"]["podIP"] for p in own if "podIP" in p["status"]]
    rules = [["-s", address, "-j", "RETURN"] for address in addresses] + [[*_TENANTS, "-j", "DROP"]]
    _iptables("-N", _CHAIN)
    try:
        for rule in rules:
            _iptables("-A", _CHAIN, *rule)
        for chain in ("INPUT", "FORWARD"):
            _iptables("-I", chain, "-j", _CHAIN)
        yield
    finally:
        for chain in ("INPUT", "FORWARD"):
            _iptables("-D", chain, "-j", _CHAIN, check=False)
        _iptables("-F", _CHAIN)
        _iptables("-X", _CHAIN)


_CHAIN = "KEYSHRED-TEST"
_TENANTS = ("-m", "iprange", "--src-range", "10.88.1.0-10.88.250.0")


def _iptables(*arguments: str, check: bool = True) -> None:
    subprocess.run(["iptables", "-w", *arguments], check=check, capture_output=True)


def test_fifty_pods_at_once_that_may_talk_to_nobody(consumers: Consumers, installed: Installed) -> None:
    tenant = consumers.tenant
    tenant.create_secret("app", a="one")
    names = [f"p{n}" for n in range(50)]
    reach = "nslookup keyshred-webhook.keyshred.svc.cluster.local > /dev/null 2>&1; echo $?"
    with _no_traffic_of_tenants(installed):
        consumers.create(*(consumers.mounting(name, "app") for name in names))
        pods.wait_running(consumers.kubectl, tenant.name, *names, seconds=300)
        assert {consumers.says(name, "cat /seen/app/a") for name in names[::7]} == {"one"}
        assert consumers.says("p0", reach) != "0\n"
    assert consumers.says("p0", reach) == "0\n", "it could talk, if it might"
    assert installed.numbers(NODE)["keyshred_node_volumes"] >= 50
    consumers.kubectl.run("delete", "pods", "--all", f"--namespace={tenant.name}", "--timeout=180s")
    until("the driver knows of none", lambda: installed.numbers(NODE)["keyshred_node_volumes"] == 0)


def test_a_pod_of_a_restricted_namespace_with_a_quota(consumers: Consumers) -> None:
    tenant = consumers.tenant
    label = json.dumps({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    consumers.kubectl.run("patch", "namespace", tenant.name, "-p", label)
    hard = {"requests.cpu": "100m", "requests.memory": "64Mi", "limits.cpu": "100m", "limits.memory": "64Mi"}
    metadata = {"name": "quota", "namespace": tenant.name}
    consumers.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}})
    tenant.create_secret("app", a="one")
    amounts = {"cpu": "100m", "memory": "64Mi"}
    container = {
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "app", "key": "a"}}}],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "image": images.BUSYBOX,
    }
    context = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    until(
        "the quota is counted",
        lambda: "used" in (consumers.kubectl("get", "resourcequota", "quota", "-n", tenant.name).get("status") or {}),
    )
    made = pods.pod(tenant.name, "tight", pods.STAY, container=container, securityContext=context)
    consumers.create(made | {"spec": made["spec"] | {"serviceAccountName": READER}})
    consumers.wait("tight")
    assert consumers.says("tight", "echo $A; id -u") == "one\n1000\n"
    found = consumers.kubectl("get", "pod", "tight", "-n", tenant.name)
    assert found["status"]["qosClass"] == "Guaranteed"
    token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert consumers.says("tight", f"stat -L -c '%a %u' {token}") == "600 1000\n", "as without keyshred"
