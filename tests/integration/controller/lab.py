"""The controller alone, with the rights it asks for and no more, on a real API server and token.

There is no webhook here: RootKeys get key ID and finalizer from the test, and admitted deletes are written as it would.
"""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from keyshred.kube.client import Kube
from keyshred.kube.records import Records
from keyshred.names import API_VERSION, FINALIZER
from keyshred.policy.ledger import check_chain
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError
from tests.cluster.keyshred import manifests
from tests.cluster.paths import REPOSITORY
from tests.cluster.processes import Process
from tests.cluster.softhsm import SoftHsm

T = TypeVar("T")
Json = dict[str, Any]

OWN: Final = "keyshred"
STARTS_AGAIN: Final = 60.0


class Lab:
    """Cluster, token and controller."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster = cluster
        self.kubectl = cluster.kubectl
        self.hsm = SoftHsm.create(cluster.directory / "hsm")
        self.controller = Process("controller", cluster.directory)
        self.install_crds()
        self.kubectl.apply(*manifests("rbac.yaml"))
        self.account = cluster.service_account_kubeconfig(OWN, "keyshred-controller")

    def install_crds(self) -> None:
        """Applies the CRDs; returns when the API server calls them Established."""
        crds = str(REPOSITORY / "crds")
        self.kubectl.run("apply", "--server-side", "-f", crds)
        self.kubectl.run("wait", "--for=condition=Established", "--timeout=60s", "-f", crds)

    def start(
        self, *flags: str, faultpoint: str = "", process: Process | None = None, hsm: SoftHsm | None = None
    ) -> None:
        """Starts the controller anew; with a fault point it kills itself there; perhaps on another token."""
        hsm = hsm or self.hsm
        environment = {"PYTHONPATH": str(REPOSITORY / "operator"), "KEYSHRED_FAULTPOINT": faultpoint} | hsm.env
        (process or self.controller).start([*self._command, *flags, f"--token-uri={hsm.uri}"], environment)

    def ensure_started(self) -> None:
        """Starts it where it does not run, or runs with other flags."""
        if not self.controller.runs([*self._command, f"--token-uri={self.hsm.uri}"]):
            self.start()

    @property
    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "keyshred", "controller"]
        command += [f"--kubeconfig={self.account}", f"--namespace={OWN}"]
        return [
            *command,
            "--lease-duration=3",
            "--hsm-deadline=0.7",
            "--resync=3",
            "--settle=1",
            "--repeat-search-after=1",
        ]

    def root_key(self, name: str, **spec: Any) -> str:
        """Creates a RootKey as the webhook would have it; returns its key ID."""
        spec = {"keyID": str(uuid.uuid4())} | spec
        metadata = {"name": name, "finalizers": [FINALIZER]}
        self.kubectl.create({"apiVersion": API_VERSION, "kind": "RootKey", "metadata": metadata, "spec": spec})
        return str(spec["keyID"])

    def authorize(self, name: str, spec: Json) -> None:
        """Creates a KeyAuthorization."""
        metadata = {"name": name}
        self.kubectl.create({"apiVersion": API_VERSION, "kind": "KeyAuthorization", "metadata": metadata, "spec": spec})

    def change(self, name: str, **spec: Any) -> None:
        """Patches a RootKey's spec."""
        self.kubectl.run("patch", "rootkey", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def get(self, kind: str, name: str, *more: str) -> Json:
        obj: Json = self.kubectl("get", kind, name, *more)
        return obj

    def is_gone(self, kind: str, name: str) -> bool:
        return self.kubectl.run("get", kind, name, check=False).returncode != 0

    def serves(self, *resources: str) -> bool:
        """Whether the API server lists these resources of ours."""
        listed = self.kubectl.run("get", "--raw", f"/apis/{API_VERSION}", check=False).stdout
        return all(f'"name":"{r}"' in listed for r in resources)

    def rewrite(self, key_id: str, field: str, value: str) -> None:
        """Changes a field of the first version in a KeyRecord, which no ledger entry vouches for."""
        patch = [{"op": "replace", "path": f"/status/versions/0/{field}", "value": value}]
        self.kubectl.run("patch", "keyrecord", key_id, "--subresource=status", "--type=json", "-p", json.dumps(patch))

    def ready(self, name: str, kind: str = "rootkey") -> tuple[str, str]:
        """Status and reason of Ready."""
        for condition in self.get(kind, name).get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready":
                return condition["status"], condition["reason"]
        return "", ""

    def actions(self, key_id: str) -> list[str]:
        """What the ledger says, its chain checked."""
        try:
            transitions = self.get("keyrecord", key_id).get("status", {}).get("transitions", [])
        except ClusterError:
            return []
        check_chain(transitions)
        return [t["action"] for t in transitions]

    def admit(self, name: str) -> None:
        """Writes what the webhook writes before a delete passes."""
        meta, spec = (self.get("rootkey", name)[part] for part in ("metadata", "spec"))

        async def append() -> None:
            kube = await Kube.connect(str(self.cluster.kubeconfig))
            await Records(kube).append(
                UUID(spec["keyID"]), action="DeleteAdmitted", by="key-admin", root_key_uid=meta["uid"]
            )
            await kube.close()

        asyncio.run(append())

    def delete(self, name: str) -> None:
        self.admit(name)
        self.kubectl.run("delete", "rootkey", name, "--wait=false")

    def on_token(self, key_id: str) -> int:
        """Objects of the key, as a process that was not there before sees them."""
        return int(self._token_tool("find", key_id))

    def generate(self, key_id: str) -> None:
        """Makes a key behind the controller's back."""
        self._token_tool("generate", key_id)

    def import_twins(self, *key_ids: str) -> None:
        """Puts one key under several key IDs."""
        self._token_tool("import", *key_ids)

    def destroy(self, key_id: str) -> None:
        """Destroys one so."""
        self._token_tool("destroy", key_id)

    def _token_tool(self, verb: str, *key_ids: str) -> str:
        environment = {"PYTHONPATH": str(REPOSITORY / "operator")} | self.hsm.env
        command = [sys.executable, str(Path(__file__).with_name("token_tool.py")), verb, self.hsm.uri, *key_ids]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def until(what: Callable[[], T], seconds: float = STARTS_AGAIN) -> T:
    """Waits for something true; the last answer is in the failure."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"still {answer!r}"
        time.sleep(0.1)
    return answer


def until_equal(what: Callable[[], T], wanted: T, seconds: float = STARTS_AGAIN) -> None:
    """Waits until `what()` is `wanted`."""
    end = time.monotonic() + seconds
    while (answer := what()) != wanted:
        assert time.monotonic() < end, f"still {answer!r}, not {wanted!r}"
        time.sleep(0.1)


ACTIVE: Final = ["Created", "GenerateStarted", "Generated", "Activated"]
DESTROYED: Final = [*ACTIVE, "DeleteAdmitted", "DestructionStarted", "ControlPassed", "ObjectsDestroyed", "Destroyed"]
