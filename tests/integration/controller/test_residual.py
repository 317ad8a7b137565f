"""What running pods still hold of a destroyed key. Pods are objects here, and Events are posted as by the webhook."""

import asyncio
import json
from uuid import UUID

import pytest

from keyshred.kube.client import Kube
from keyshred.kube.events import Events
from keyshred.names import WEBHOOK_SERVICE_ACCOUNT, Reason
from keyshred.policy.residual import said
from keyshred.policy.volumes import DRIVER, Content, Files, Source, Variable, Variables, attributes
from tests.integration.controller.lab import DESTROYED, Json, Lab, until, until_equal

DB, APP = Files((Source("db"),)), Files((Source("app"), Source("unsealed")))
ENVIRONMENT = Variables((Variable("db", "a"),))
COUNTED = [*DESTROYED, "SearchRepeated", "ResidualCounted"]


def _key_with_dependents(lab: Lab, name: str) -> str:
    key_id = lab.root_key(name)
    lab.kubectl.run("create", "namespace", name)
    lab.kubectl.run("create", "serviceaccount", "default", f"--namespace={name}")
    lab.authorize(name, {"rootKeyRef": {"name": name}, "namespaces": {"names": [name]}})
    until_equal(lambda: lab.ready(name, "keyauthorization"), ("True", "Authorized"))
    for secret in ("db", "app"):
        lab.seal(name, secret, key_id)
    until_equal(lambda: lab.get("rootkey", name)["status"].get("dependents", {}).get("secrets"), 2)
    return key_id


def _pod(lab: Lab, namespace: str, name: str, phase: str, **contents: Content) -> Json:
    volumes = [{"name": n, "csi": {"driver": DRIVER, "volumeAttributes": attributes(c)}} for n, c in contents.items()]
    spec = {"containers": [{"name": "c", "image": "none"}], "volumes": volumes, "automountServiceAccountToken": False}
    metadata = {"name": name, "namespace": namespace}
    lab.kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    status = json.dumps({"status": {"phase": phase}})
    lab.kubectl.run(
        "patch", "pod", name, f"--namespace={namespace}", "--subresource=status", "--type=merge", "-p", status
    )
    return lab.get("pod", name, f"--namespace={namespace}")


def _say(lab: Lab, pod: Json, volume: str, secret: str, key_id: str) -> None:
    async def post() -> None:
        kube = await Kube.connect(str(lab.cluster.kubeconfig))
        await Events(kube, WEBHOOK_SERVICE_ACCOUNT).post(pod, Reason.VOLUME_CLEARED, said(volume, secret, UUID(key_id)))
        await kube.close()

    asyncio.run(post())


def _residual(lab: Lab, key_id: str) -> tuple[int, int, int]:
    """Pods with environment, volumes cleared, volumes not reached."""
    found = lab.get("keyrecord", key_id)["status"]["evidence"]["residual"]
    return found["podsWithEnvironment"], found["volumesCleared"], found["volumesUnreached"]


def test_the_record_says_what_was_cleared_and_what_not(lab: Lab, name: str) -> None:
    key_id = _key_with_dependents(lab, name)
    first = _pod(lab, name, "first", "Running", v=DB, w=APP)
    _pod(lab, name, "second", "Running", v=DB, e=ENVIRONMENT)
    _pod(lab, name, "third", "Running", v=APP)
    _pod(lab, name, "ended", "Succeeded", v=DB, e=ENVIRONMENT)
    _pod(lab, name, "waiting", "Pending", v=DB)
    _pod(lab, name, "of-others", "Running", v=Files((Source("unsealed"),)))
    lab.delete(name)
    until_equal(lambda: lab.actions(key_id), [*DESTROYED, "SearchRepeated"])
    assert _residual(lab, key_id) == (1, 0, 4)
    # One volume of two, and somebody else's word for another.
    _say(lab, first, "v", "db", key_id)
    _say(lab, first, "w", "db", key_id)
    lab.kubectl.run("delete", "pod", "third", f"--namespace={name}", "--force", "--grace-period=0")
    lab.start("--count-residual-after=0")
    until_equal(lambda: lab.actions(key_id), COUNTED)
    assert _residual(lab, key_id) == (1, 1, 2)
    details = [t.get("detail", "") for t in lab.get("keyrecord", key_id)["status"]["transitions"]]
    assert "cleared 0, not reached 4" in details[-3] and "cleared 1, not reached 2" in details[-1]


@pytest.mark.parametrize(
    ("faultpoint", "cleared"),
    [
        ("before-Verify", 1),
        ("before-RepeatSearch", 1),
        ("after-RepeatSearch", 1),
        ("before-CountResidual", 1),
        # It was counted then, and is not counted again.
        ("unheaded-ResidualCounted", 0),
        ("after-CountResidual", 0),
    ],
)
def test_killed_at_any_step_it_is_counted_once(running: Lab, name: str, faultpoint: str, cleared: int) -> None:
    running.start("--count-residual-after=0", faultpoint=faultpoint)
    key_id = _key_with_dependents(running, name)
    pod = _pod(running, name, "first", "Running", v=DB)
    running.delete(name)
    until(lambda: running.controller.pid is None)
    _say(running, pod, "v", "db", key_id)
    running.start("--count-residual-after=0")
    until_equal(lambda: running.actions(key_id), COUNTED)
    assert _residual(running, key_id) == (0, cleared, 1 - cleared)


def test_a_key_without_dependents_leaves_nothing(lab: Lab, name: str) -> None:
    lab.start("--count-residual-after=0")
    key_id = lab.root_key(name)
    until_equal(lambda: lab.ready(name), ("True", "KeyActive"))
    lab.delete(name)
    until_equal(lambda: lab.actions(key_id), COUNTED)
    assert _residual(lab, key_id) == (0, 0, 0)
