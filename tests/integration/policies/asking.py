"""How these tests ask the API server, and as whom."""

import base64
import json
import time
import uuid
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from tests.cluster.keyshred import Keyshred
from tests.cluster.kubectl import Kubectl, as_list
from tests.integration.system.tenant import authorization

Json = dict[str, Any]

ROOT_KEY: Final = "shared"
LABEL: Final = "keyshred.dev/sealing"
HELD: Final = "keyshred.dev/held"
PLAIN: Final = base64.b64encode(b"correct-horse").decode()
SEALED: Final = base64.b64encode(b"KSH1" + bytes(60)).decode()
ENVELOPE: Final = {"keyshred.dev/envelope": "{}"}
MARK: Final = {"keyshred.dev/key-id": "aaaaaaaa-0000-4000-8000-000000000001"}
AS_CONTROLLER: Final = ("--as=system:serviceaccount:keyshred:keyshred-controller", "--as-group=system:masters")
"""By its name, with more rights than it has: kubectl reads before it patches."""


class Site:
    """One installation."""

    def __init__(self, keyshred: Keyshred) -> None:
        self.keyshred = keyshred
        self.kubectl = keyshred.cluster.kubectl

    @cached_property
    def controller(self) -> Kubectl:
        """kubectl as the controller."""
        return Kubectl(self.keyshred.cluster.service_account_kubeconfig("keyshred", "keyshred-controller"))

    def user(self, name: str) -> Kubectl:
        """kubectl as somebody of that name, without any right but those that a test gives."""
        return Kubectl(self.keyshred.cluster.user_kubeconfig(name))

    def take_webhooks_away(self) -> None:
        """As somebody might who does not know what they are for."""
        self.kubectl.run("delete", "mutatingwebhookconfiguration", "keyshred")

    def bring_webhooks_back(self) -> None:
        """And whatever could still be covered goes."""
        self.kubectl.run("delete", "keyauthorizations", "--all", "--wait=false")
        self.keyshred.install_webhooks()

    def namespace(self, label: str | None = "enabled", held: str | None = None, **labels: str) -> str:
        """A fresh one, as the controller would have it."""
        name = unique()
        self.kubectl.create(namespace(name, labels))
        self.set_own(name, label, held)
        return name

    def set_own(self, name: str, label: str | None, held: str | None = None) -> None:
        """What is keyshred's on a namespace."""
        patch = {"metadata": {"labels": {LABEL: label}, "annotations": {HELD: held}}}
        # By stdin: what is held may be longer than a command line.
        arguments = ("patch", "namespace", name, "--type=merge", "--patch-file=/dev/stdin")
        self.controller.run(*arguments, input=json.dumps(patch))


def unique() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def namespace(name: str, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> Json:
    """A Namespace's manifest."""
    metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def secret(place: str, name: str = "app", **fields: Any) -> Json:
    """A Secret's manifest, in plaintext unless `data` says else."""
    metadata = {"name": name, "namespace": place} | fields.pop("metadata", {})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"a": PLAIN}} | fields


def grant(name: str, spec: Json) -> Json:
    """A KeyAuthorization for the one RootKey."""
    return authorization(name, []) | {"spec": {"rootKeyRef": {"name": ROOT_KEY}} | spec}


def answer(kubectl: Kubectl, verb: str, *manifests: Json, more: tuple[str, ...] = ()) -> str:
    """What the API server says against it; empty where it has nothing against it. Nothing is stored."""
    done = kubectl.run(verb, "--dry-run=server", "-f", "-", *more, input=as_list(manifests), check=False)
    return done.stderr if done.returncode else ""


def patched(kubectl: Kubectl, patch: Json, *what: str) -> str:
    """The same of a merge patch."""
    done = kubectl.run("patch", *what, "--dry-run=server", "--type=merge", "-p", json.dumps(patch), check=False)
    return done.stderr if done.returncode else ""


def until(what: Callable[[], Any], seconds: float = 60) -> None:
    """Waits until the API server's own caches have it."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "still not so"
        time.sleep(0.1)
