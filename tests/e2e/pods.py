"""Pods that show what their containers see: files with owners and modes, and environments."""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tests.cluster import images
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import until
from tests.integration.system.tenant import Tenant

Json = dict[str, Any]

LOOK: Final = """
exec 2>&1; cd /seen && find . | sort | while read -r name; do
  stat -c '%n|%a|%u|%g|%F' "$name"
  [ -L "$name" ] && echo "$name -> $(readlink "$name")"
  [ -f "$name" ] && sha256sum < "$name"
done
echo done
"""
"""What a container sees below /seen: each name with mode, owner, group and kind, where links lead, and contents."""
STAY: Final = "while :; do sleep 1; done"
_MOMENT: Final = re.compile(r"\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+")


def secret(namespace: str, name: str, values: Mapping[str, bytes], **fields: Any) -> Json:
    """A Secret's manifest."""
    data = {k: base64.b64encode(v).decode() for k, v in values.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    } | fields


def pod(namespace: str, name: str, script: str, *, container: Json | None = None, **spec: Any) -> Json:
    """A Pod with one container that runs a script of the shell."""
    first = {"name": "main", "image": images.BUSYBOX, "command": ["sh", "-c", script]} | (container or {})
    whole = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [first]} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": whole}


def mounting(namespace: str, name: str, *secrets: str, **spec: Any) -> Json:
    """A Pod that stays, with each of the Secrets mounted at /seen/SECRET."""
    volumes = [{"name": f"v{n}", "secret": {"secretName": secret}} for n, secret in enumerate(secrets)]
    mounts = [{"name": f"v{n}", "mountPath": f"/seen/{secret}"} for n, secret in enumerate(secrets)]
    return pod(namespace, name, STAY, container={"volumeMounts": mounts}, volumes=volumes, **spec)


def variable(secret: str, key: str = "a", name: str = "A") -> Json:
    """An entry of env with a value of a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


@contextmanager
def open_to_everybody(tenant: Tenant) -> Iterator[Tenant]:
    """The tenant, where any ServiceAccount's pods may have what they refer to; its pods are gone in the end."""
    everybody = json.dumps({"spec": {"subjects": None}})
    tenant.kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", "-p", everybody)
    yield tenant
    tenant.kubectl.run("delete", "pods", "--all", f"--namespace={tenant.name}", "--timeout=180s")


def wait_ended(kubectl: Kubectl, namespace: str, *names: str, seconds: float = 180) -> None:
    """Returns when they have succeeded. Errors: ClusterError."""

    def all_ended() -> bool:
        found = kubectl("get", "pods", f"--namespace={namespace}")["items"]
        phases = {p["metadata"]["name"]: p["status"].get("phase") for p in found}
        return all(phases.get(name) == "Succeeded" for name in names)

    try:
        until(f"pods {', '.join(names)} of {namespace} have ended", all_ended, seconds)
    except ClusterError as error:
        raise ClusterError(f"{error}: {_why(kubectl, namespace, names)}") from None


def wait_running(kubectl: Kubectl, namespace: str, *names: str, seconds: int = 180) -> None:
    """Returns when they are Ready. Errors: ClusterError."""
    wait = ("wait", "--for=condition=Ready", f"--timeout={seconds}s", f"--namespace={namespace}")
    kubectl.run(*wait, *(f"pod/{name}" for name in names))


def seen(kubectl: Kubectl, namespace: str, name: str, container: str = "main") -> str:
    """What it has printed, with the names of moments made equal."""
    said = kubectl.run("logs", name, f"--container={container}", f"--namespace={namespace}").stdout
    return _MOMENT.sub("..MOMENT", said)


def both_say(kubectl: Kubectl, namespaces: Sequence[str], name: str, container: str) -> list[str]:
    """What a container has printed in each of the namespaces."""
    return [seen(kubectl, namespace, name, container) for namespace in namespaces]


def sorted_environment(environ: str) -> list[str]:
    """The variables in what /proc/self/environ says, but for those that differ from pod to pod."""
    return sorted(v for v in environ.split("\0") if not v.startswith(("HOSTNAME=", "KUBERNETES_")))


def run(kubectl: Kubectl, namespace: str, name: str, script: str, *, container: str = "main") -> str:
    """What a script says in a running container."""
    command = ("exec", name, f"--container={container}", f"--namespace={namespace}", "--", "sh", "-c", script)
    return _MOMENT.sub("..MOMENT", kubectl.run(*command).stdout)


def events(kubectl: Kubectl, namespace: str, name: str) -> str:
    """Messages of the Events on a pod."""
    found = kubectl("get", "events", f"--namespace={namespace}", f"--field-selector=involvedObject.name={name}")
    return "\n".join(f"{e['reason']}: {e.get('message')}" for e in found["items"])


def _why(kubectl: Kubectl, namespace: str, names: Sequence[str]) -> str:
    return json.dumps({name: events(kubectl, namespace, name)[:500] for name in names})
