"""Pods with sealed Secrets: native sidecars, grants that end, nodes, and what a destroyed key leaves."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import pytest

from tests.cluster import images
from tests.cluster.node import NAME, Node, until
from tests.e2e import pods
from tests.e2e.installed import Installed
from tests.integration.system.tenant import Tenant, authorization

REPUBLISHED: Final = 150.0
"""Seconds: the kubelet looks at volumes again within 60 to 90 s, and half of that more on a busy machine."""
COUNTED: Final = 360.0
"""Seconds: what pods still hold of a destroyed key is counted 240 s after its destruction."""
MOUNTED: Final = 240
"""Seconds: the kubelet tries a volume that failed again after two minutes at most."""
ENV_FILES: Final = "keyshred.dev/env-files"

Json = dict[str, Any]


@pytest.fixture
def tenant(tenant: Tenant) -> Iterator[Tenant]:
    """One where any ServiceAccount's pods may have what they refer to."""
    with pods.open_to_everybody(tenant) as opened:
        yield opened


def _environment(namespace: str, name: str, secret: str) -> Json:
    """A Pod that stays, with a value of the Secret in its environment."""
    return pods.pod(namespace, name, pods.STAY, container={"env": [pods.variable(secret)]})


class Destroyed(NamedTuple):
    """A tenant whose key is gone while its pods run."""

    tenant: Tenant
    key_id: str


@pytest.fixture(scope="module", autouse=True)
def destroyed(node: Node, installed: Installed) -> Iterator[Destroyed]:
    """Before all other tests of this file: what it leads to takes four minutes, which these are long, too."""
    with pods.open_to_everybody(Tenant.create_with_key_first(installed)) as tenant:
        kubectl = node.kubectl
        for name in ("one", "two"):
            tenant.create_secret(name, **{name: f"value-of-{name}"})
        sources = [{"secret": {"name": name}} for name in ("one", "two")]
        volume = {"name": "both", "projected": {"sources": sources}}
        mount = {"volumeMounts": [{"name": "both", "mountPath": "/seen/both"}]}
        kubectl.create(
            pods.mounting(tenant.name, "files", "one"),
            pods.pod(tenant.name, "both", pods.STAY, container=mount, volumes=[volume]),
            pods.pod(tenant.name, "ended", "true", container=mount, volumes=[volume]),
            pods.pod(tenant.name, "environment", pods.STAY, container={"env": [pods.variable("one", "one")]}),
        )
        pods.wait_running(kubectl, tenant.name, "files", "both", "environment")
        pods.wait_ended(kubectl, tenant.name, "ended")
        assert pods.run(kubectl, tenant.name, "both", "cat /seen/both/*") == "value-of-onevalue-of-two"
        key_id = tenant.delete_key()
        kubectl.create(pods.mounting(tenant.name, "late", "two"))
        record = tenant.record(key_id)
        assert record["evidence"]["residual"] == _residual(environments=1, cleared=0, unreached=2)
        assert _details(record) == {"Destroyed": _counted(environments=1, cleared=0, unreached=2)}
        yield Destroyed(tenant, key_id)


# Native sidecars


def _with_a_sidecar(namespace: str) -> Json:
    """A Pod whose containers write down when they run, and print their environments.

    The sidecar ends once, and is started again, before the init container behind it has its turn.
    """
    environment = {
        "env": [pods.variable("app"), {"name": "COMPOSED", "value": "user:$(A)@host"}],
        "envFrom": [{"secretRef": {"name": "app"}, "prefix": "P_"}],
        "volumeMounts": [{"name": "order", "mountPath": "/order"}],
        "image": images.BUSYBOX,
    }

    def container(name: str, end: str, **fields: Any) -> Json:
        script = f"cat /proc/self/environ; echo {name} >> /order/all; {end}"
        return {"name": name, "command": ["sh", "-c", script]} | environment | fields

    again = f"[ -e /order/once ] || {{ touch /order/once; exit 1; }}; touch /order/up; {pods.STAY}"
    probe = {"exec": {"command": ["sh", "-c", "[ -e /order/up ]"]}, "periodSeconds": 1, "failureThreshold": 120}
    sidecar = container("sidecar", again, restartPolicy="Always", startupProbe=probe)
    made = pods.pod(namespace, "sided", "", initContainers=[sidecar, container("regular", "true")])
    made["spec"]["containers"] = [container("main", "cat /order/all > /dev/termination-log")]
    made["spec"]["volumes"] = [{"name": "order", "emptyDir": {}}]
    return made


def test_native_sidecars_start_in_their_order_with_their_environments(node: Node, tenant: Tenant, clear: str) -> None:
    kubectl = node.kubectl
    for namespace in (clear, tenant.name):
        values = {"a": b"s3cr3t-of-a-sidecar", "lines": b"one\ntwo\n"}
        kubectl.create(pods.secret(namespace, "app", values), _with_a_sidecar(namespace))
    assert b"s3cr3t" not in tenant.in_etcd("app")
    for namespace in (clear, tenant.name):
        pods.wait_ended(kubectl, namespace, "sided")
        found = kubectl("get", "pod", "sided", f"--namespace={namespace}")
        first = [c["name"] for c in found["spec"]["initContainers"]]
        assert first == [*(["keyshred-env"] if namespace == tenant.name else []), "sidecar", "regular"]
        ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
        assert ended["message"] == "sidecar\nsidecar\nregular\nmain\n"
    for container in ("sidecar", "regular", "main"):
        sealed, native = (
            pods.sorted_environment(said)
            for said in pods.both_say(node.kubectl, (tenant.name, clear), "sided", container)
        )
        assert sealed == native
        assert {"A=s3cr3t-of-a-sidecar", "COMPOSED=user:s3cr3t-of-a-sidecar@host", "P_lines=one\ntwo\n"} <= set(sealed)


# Namespaces that are retained


def _expire(tenant: Tenant, value: str | None) -> None:
    patch = json.dumps({"spec": {"expirationTime": value}})
    tenant.kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", "-p", patch)


def _let_expire(tenant: Tenant) -> Callable[[], None]:
    _expire(tenant, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    return lambda: _expire(tenant, None)


def _delete(tenant: Tenant) -> Callable[[], None]:
    tenant.kubectl.run("delete", "keyauthorization", tenant.name)
    return lambda: tenant.kubectl.apply(authorization(tenant.name, [tenant.name]))


def _wait_retained(tenant: Tenant) -> None:
    label = "--for=jsonpath={.metadata.labels.keyshred\\.dev/sealing}=retained"
    tenant.kubectl.run("wait", label, f"namespace/{tenant.name}", "--timeout=180s")


def _create_unsealed(tenant: Tenant, name: str, value: str) -> None:
    """Creates a Secret that is stored as it comes: anew until no worker of the webhook goes by what was before."""

    def stored_as_it_comes() -> bool:
        tenant.kubectl.run("delete", "secret", name, f"--namespace={tenant.name}", "--ignore-not-found")
        tenant.create_secret(name, a=value)
        return value.encode() in tenant.in_etcd(name)

    until("a new Secret is stored as it comes", stored_as_it_comes)


@pytest.mark.parametrize("end", [_delete, _let_expire])
def test_without_a_grant_pods_made_anew_wait_for_sealed_secrets_alone_until_there_is_one_again(
    node: Node, tenant: Tenant, end: Callable[[Tenant], Callable[[], None]]
) -> None:
    kubectl = node.kubectl
    tenant.create_secret("app", a="sealed-before")
    kubectl.create(pods.mounting(tenant.name, "before", "app"))
    pods.wait_running(kubectl, tenant.name, "before")
    assert b"sealed-before" not in tenant.in_etcd("app")

    grant = end(tenant)

    _wait_retained(tenant)
    until("nothing sealed is given out", lambda: tenant.ask("app")[0] == 403)
    kubectl.create(pods.mounting(tenant.name, "files", "app"), _environment(tenant.name, "environment", "app"))
    waiting = ("files", "environment")
    until("Events tell why they wait", lambda: all(_told_unauthorized(node, tenant, name) for name in waiting))
    _create_unsealed(tenant, "plain", "stored-as-it-comes")
    kubectl.create(pods.mounting(tenant.name, "reads", "plain"), _environment(tenant.name, "has", "plain"))
    pods.wait_running(kubectl, tenant.name, "reads", "has")
    assert pods.run(kubectl, tenant.name, "reads", "cat /seen/plain/a") == "stored-as-it-comes"
    assert pods.run(kubectl, tenant.name, "has", "echo $A") == "stored-as-it-comes\n"
    assert pods.run(kubectl, tenant.name, "before", "cat /seen/app/a") == "sealed-before"
    for name in waiting:
        assert kubectl("get", "pod", name, f"--namespace={tenant.name}")["status"]["phase"] == "Pending"

    grant()

    pods.wait_running(kubectl, tenant.name, *waiting, seconds=MOUNTED)
    assert pods.run(kubectl, tenant.name, "files", "cat /seen/app/a") == "sealed-before"
    assert pods.run(kubectl, tenant.name, "environment", "echo $A") == "sealed-before\n"
    until("what nothing reads natively is sealed", lambda: b"stored-as-it-comes" not in tenant.in_etcd("plain"))
    assert pods.run(kubectl, tenant.name, "reads", "cat /seen/plain/a") == "stored-as-it-comes"


def _told_unauthorized(node: Node, tenant: Tenant, name: str) -> bool:
    lines = [line for line in pods.events(node.kubectl, tenant.name, name).splitlines() if "Secret app" in line]
    return all(
        any(line.startswith(f"{reason}:") and "not authorised to unseal this Secret" in line for line in lines)
        for reason in ("FailedMount", "UnsealRefused")
    )


def test_where_a_grant_only_unseals_pods_made_anew_get_what_is_sealed_and_what_is_not(
    node: Node, tenant: Tenant
) -> None:
    kubectl = node.kubectl
    tenant.create_secret("app", a="sealed-before")
    unseal = json.dumps({"spec": {"operations": ["Unseal"]}})
    kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", "-p", unseal)
    _wait_retained(tenant)
    _create_unsealed(tenant, "plain", "stored-as-it-comes")
    container = {"env": [pods.variable("app"), pods.variable("plain", name="B")]}
    kubectl.create(
        pods.mounting(tenant.name, "files", "app", "plain"),
        pods.pod(tenant.name, "environment", pods.STAY, container=container),
    )
    pods.wait_running(kubectl, tenant.name, "files", "environment")
    assert b"sealed-before" not in tenant.in_etcd("app")
    both = "sealed-before stored-as-it-comes\n"
    assert pods.run(kubectl, tenant.name, "files", "echo $(cat /seen/app/a) $(cat /seen/plain/a)") == both
    assert pods.run(kubectl, tenant.name, "environment", "echo $A $B") == both


# Nodes


@contextmanager
def _env_files(node: Node, value: str) -> Iterator[None]:
    """The node's label says so, as an admin has set it; then it is taken away, and the controller sets its own."""
    kubectl = node.kubectl
    try:
        kubectl.run("label", "node", NAME, f"{ENV_FILES}={value}", "--overwrite")
        yield
    finally:
        kubectl.run("label", "node", NAME, f"{ENV_FILES}-")
        until("the controller has set its own", lambda: _label(node) == "true")


def _label(node: Node) -> str | None:
    labels: dict[str, str] = node.kubectl("get", "node", NAME)["metadata"]["labels"]
    return labels.get(ENV_FILES)


def _wait_looked_at(node: Node) -> None:
    """Returns when the controller has looked at the node as it is now: it takes this taint off afterwards."""
    node.kubectl.run("taint", "node", NAME, "keyshred.dev/not-ready=:PreferNoSchedule")
    until("the taint is off", lambda: "keyshred.dev/not-ready" not in _taints(node))


def _taints(node: Node) -> set[str]:
    return {taint["key"] for taint in node.kubectl("get", "node", NAME)["spec"].get("taints") or ()}


def test_a_node_that_fills_no_environments_is_not_chosen_for_pods_that_need_it(node: Node, tenant: Tenant) -> None:
    """As an admin says of a node, by a value of the label that is not keyshred's own."""
    kubectl = node.kubectl
    tenant.create_secret("app", a="one")
    with _env_files(node, "false"):
        _wait_looked_at(node)
        assert _label(node) == "false", "what an admin has set stays"
        kubectl.create(_environment(tenant.name, "environment", "app"), pods.mounting(tenant.name, "files", "app"))
        pods.wait_running(kubectl, tenant.name, "files")
        assert pods.run(kubectl, tenant.name, "files", "cat /seen/app/a") == "one"
        until("the scheduler has judged", lambda: bool(_scheduled(node, tenant, "environment")))
        assert _scheduled(node, tenant, "environment")["status"] == "False"
        assert "didn't match Pod's node affinity/selector" in _scheduled(node, tenant, "environment")["message"]
        found = kubectl("get", "pod", "environment", f"--namespace={tenant.name}")
        assert found["spec"]["nodeSelector"] == {ENV_FILES: "true"} and found["status"]["phase"] == "Pending"
        _wait_looked_at(node)
        assert _label(node) == "false"
    pods.wait_running(kubectl, tenant.name, "environment")
    assert pods.run(kubectl, tenant.name, "environment", "echo $A") == "one\n"


def _scheduled(node: Node, tenant: Tenant, name: str) -> Json:
    """The condition PodScheduled; empty: nobody has judged yet."""
    status = node.kubectl("get", "pod", name, f"--namespace={tenant.name}")["status"]
    return next((c for c in status.get("conditions") or () if c["type"] == "PodScheduled"), {})


# What running pods still hold of a destroyed key


def test_what_running_pods_hold_of_a_destroyed_key_is_counted_twice(node: Node, destroyed: Destroyed) -> None:
    """Two volumes, one of two Secrets, and one environment; pods that ended or came too late count nowhere."""
    kubectl, (tenant, key_id) = node.kubectl, destroyed
    cleared = {"files": {_cleared("one", "v0", key_id)}, "both": {_cleared(n, "both", key_id) for n in ("one", "two")}}
    until(
        "Events tell what is cleared, one for each Secret of a volume",
        lambda: {name: _told_cleared(node, tenant, name) for name in cleared} == cleared,
        REPUBLISHED,
    )
    assert pods.run(kubectl, tenant.name, "files", "ls /seen/one") == ""
    assert pods.run(kubectl, tenant.name, "both", "ls /seen/both") == ""
    until("it is counted again", lambda: "ResidualCounted" in _details(tenant.record(key_id)), COUNTED)
    record = tenant.record(key_id)
    assert record["evidence"]["residual"] == _residual(environments=1, cleared=2, unreached=0)
    assert _details(record) == {
        "Destroyed": _counted(environments=1, cleared=0, unreached=2),
        "ResidualCounted": _counted(environments=1, cleared=2, unreached=0),
    }
    assert pods.run(kubectl, tenant.name, "environment", "echo $A") == "value-of-one\n", "what the count warns of"
    assert not [name for name in ("environment", "ended", "late") if _told_cleared(node, tenant, name)]


def _residual(*, environments: int, cleared: int, unreached: int) -> dict[str, int]:
    return {"podsWithEnvironment": environments, "volumesCleared": cleared, "volumesUnreached": unreached}


def _counted(*, environments: int, cleared: int, unreached: int) -> str:
    volumes = f"volumes of running pods: cleared {cleared}, not reached {unreached}"
    return f"{volumes}; pods that hold values in their environment: {environments}"


def _details(record: Json) -> dict[str, str]:
    """By action, of those transitions that count what pods hold."""
    counting = ("Destroyed", "ResidualCounted")
    return {t["action"]: t["detail"] for t in record["transitions"] if t["action"] in counting}


def _cleared(secret: str, volume: str, key_id: str) -> str:
    what = f"the files of Secret {secret} in volume {volume} are emptied and removed"
    return f"VolumeCleared: {what}: its key {key_id} is destroyed"


def _told_cleared(node: Node, tenant: Tenant, name: str) -> set[str]:
    """The Events that say so, on one pod."""
    lines = pods.events(node.kubectl, tenant.name, name).splitlines()
    return {line for line in lines if line.startswith("VolumeCleared")}
