"""The real parts themselves: what the other tests stand on."""

import json
import urllib.request
import uuid
from pathlib import Path

import pytest

from tests.cluster import accounts, history, paths, versions
from tests.cluster.control_plane import ControlPlane, reap
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Process, start_time


def test_versions_are_the_pinned_ones(control_plane: ControlPlane, kubectl: Kubectl) -> None:
    answer = kubectl("version")
    assert answer["serverVersion"]["gitVersion"] == answer["clientVersion"]["gitVersion"] == versions.KUBERNETES
    with urllib.request.urlopen(f"{control_plane.etcd_url}/version") as etcd:
        assert json.load(etcd)["etcdserver"] == versions.ETCD.removeprefix("v")


def test_up_leaves_what_runs_and_replaces_what_crashed(
    control_plane: ControlPlane, kubectl: Kubectl, namespace: str
) -> None:
    etcd, apiserver, url = control_plane.etcd.pid, control_plane.apiserver.pid, control_plane.url
    control_plane.up()
    assert (control_plane.etcd.pid, control_plane.apiserver.pid) == (etcd, apiserver)

    control_plane.apiserver.kill()
    # Another object, as a later run would have it: all it knows is the folder.
    ControlPlane(control_plane.directory).up()
    assert control_plane.etcd.pid == etcd
    assert control_plane.apiserver.pid not in (None, apiserver)
    assert control_plane.url == url
    assert kubectl("get", "namespace", namespace)["metadata"]["name"] == namespace


def test_a_crash_of_etcd_loses_nothing(control_plane: ControlPlane, kubectl: Kubectl, namespace: str) -> None:
    control_plane.etcd.kill()
    control_plane.up()
    assert kubectl("get", "namespace", namespace)["metadata"]["name"] == namespace


def test_etcd_raw_shows_a_plain_secret(control_plane: ControlPlane, kubectl: Kubectl, namespace: str) -> None:
    """The positive control of every later search for plaintext in etcd."""
    marker = uuid.uuid4().hex
    kubectl.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "plain", "namespace": namespace},
            "stringData": {"key": marker},
        }
    )
    stored = control_plane.etcd_raw(f"/registry/secrets/{namespace}/")
    assert list(stored) == [f"/registry/secrets/{namespace}/plain"]
    assert marker.encode() in stored[f"/registry/secrets/{namespace}/plain"]
    assert stored.items() <= control_plane.etcd_raw().items()


def test_a_token_is_bound_to_its_pod_and_audience(kubectl: Kubectl, namespace: str) -> None:
    accounts.create(kubectl, namespace)
    kubectl.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "reader", "namespace": namespace},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }
    )
    token = accounts.token(kubectl, namespace, "default", audience="keyshred.dev", pod="reader")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["keyshred.dev"]},
    }
    status = kubectl("create", "-f", "-", input=json.dumps(review))["status"]
    assert status["authenticated"] is True
    assert status["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["reader"]


def test_a_user_is_who_the_certificate_says(control_plane: ControlPlane, namespace: str) -> None:
    member = Kubectl(control_plane.user_kubeconfig("key-admin", groups=["testers"]))
    attributes = member("auth", "whoami")["status"]["userInfo"]
    assert attributes["username"] == "key-admin"
    assert "testers" in attributes["groups"]
    with pytest.raises(ClusterError, match="forbidden"):
        member("get", "secrets", f"--namespace={namespace}")


def test_a_service_account_has_its_own_kubeconfig(
    control_plane: ControlPlane, kubectl: Kubectl, namespace: str
) -> None:
    accounts.create(kubectl, namespace, "robot")
    robot = Kubectl(control_plane.service_account_kubeconfig(namespace, "robot"))
    assert robot("auth", "whoami")["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:robot"


def test_what_a_crashed_run_left_is_stopped_and_removed() -> None:
    directory = paths.run() / f"crashed-{uuid.uuid4().hex[:8]}"
    left = Process("left", directory)
    left.start(["sleep", "600"])
    pid = left.pid
    assert pid is not None
    (directory / "owner").write_text("1 0")  # pid 1 lives, but did not start at 0
    reap()
    assert start_time(pid) is None
    assert not directory.exists()


def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = Process("stranger", tmp_path)
    stranger.start(["sleep", "600"])
    pid = stranger.pid
    assert pid is not None
    (tmp_path / "ours.pid").write_text(f"{pid} 1")
    ours = Process("ours", tmp_path)
    assert ours.pid is None
    ours.stop()
    assert start_time(pid) is not None
    stranger.stop()
    assert start_time(pid) is None


def test_stop_ends_the_whole_group(tmp_path: Path) -> None:
    process = Process("leader", tmp_path)
    process.start(["bash", "-c", "sleep 600 & echo $!; wait"])
    process.wait_until(lambda: process.log.read_text().endswith("\n"))
    worker = int(process.log.read_text())
    assert start_time(worker) is not None
    process.stop()
    assert start_time(worker) is None


def test_a_program_that_dies_is_reported_with_its_log(tmp_path: Path) -> None:
    process = Process("broken", tmp_path)
    process.start(["bash", "-c", "echo the reason; exit 1"])
    with pytest.raises(ClusterError, match=r"(?s)broken ended by itself.*the reason"):
        process.wait_until(lambda: False)


def test_what_was_overwritten_is_found_again(control_plane: ControlPlane, kubectl: Kubectl, namespace: str) -> None:
    kubectl.run("create", "secret", "generic", "app", "--from-literal=a=one", "-n", namespace)
    kubectl.run("patch", "secret", "app", "-n", namespace, "--type=merge", '-p={"stringData": {"a": "two", "b": ""}}')
    kubectl.run("annotate", "secret", "app", "-n", namespace, "c=d")
    kubectl.run("delete", "secret", "app", "-n", namespace)
    stored = [history.secret(revision) for revision in history.revisions(control_plane)]
    ours = [s for s in stored if s is not None and (s.namespace, s.name, s.type) == (namespace, "app", "Opaque")]
    assert [s.data for s in ours] == [{"a": b"one"}, {"a": b"two", "b": b""}, {"a": b"two", "b": b""}]
    assert [dict(s.annotations) for s in ours] == [{}, {}, {"c": "d"}]


def test_a_history_that_was_compacted_is_none() -> None:
    with ControlPlane.temporary("compacted") as other:
        now = json.loads(other.etcdctl("endpoint", "status", "--write-out=json"))[0]["Status"]["header"]["revision"]
        other.etcdctl("compaction", str(now))
        with pytest.raises(ClusterError, match="history"):
            list(history.revisions(other))
