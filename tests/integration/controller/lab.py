"""The controller alone, with the rights it asks for and no more, on a real API server and token.

There is no webhook here: RootKeys get key ID and finalizer from the test, and admitted deletes are written as it would.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from keyshred.envelope.format import Born, Envelope, Mechanism, serialise
from keyshred.kube.client import Kube
from keyshred.kube.records import Records
from keyshred.names import ANNOTATION_ENVELOPE, API_VERSION, CONTROLLER_LEASE, FINALIZER, GROUP, LABEL_KEY_ID, VERSION
from keyshred.policy.ledger import check_chain
from keyshred.times import utc_now
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError
from tests.cluster.keyshred import manifests
from tests.cluster.paths import REPOSITORY
from tests.cluster.processes import Process
from tests.cluster.softhsm import MODULE, SoftHsm
from tests.integration.controller import token_tool

T = TypeVar("T")
Json = dict[str, Any]

OWN: Final = "keyshred"
STARTS_AGAIN: Final = 120.0
SOON_TAKEN: Final = ("--lease-duration=8", "--hsm-deadline=1.5")
"""Flags for tests in which a controller takes over from one that lives: they wait for a Lease to run out."""
_OURS: Final = ("rootkey", "keyauthorization", "keyrecord")


class Lab:
    """Cluster, token and controller."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster = cluster
        self.kubectl = cluster.kubectl
        self.hsm = SoftHsm.create(cluster.directory / "hsm")
        self.controller = Process("controller", cluster.directory)
        self._started: list[Process] = []
        api = config.new_client_from_config(str(cluster.kubeconfig))
        self._api, self._leases = client.CustomObjectsApi(api), client.CoordinationV1Api(api)
        self.install_crds()
        self.kubectl.apply(*manifests("rbac.yaml"))
        self.account = cluster.service_account_kubeconfig(OWN, "keyshred-controller")

    def install_crds(self) -> None:
        """Applies the CRDs; returns when the API server calls them Established."""
        crds = str(REPOSITORY / "crds")
        self.kubectl.run("apply", "--server-side", "-f", crds)
        self.kubectl.run("wait", "--for=condition=Established", "--timeout=180s", "-f", crds)

    def start(
        self, *flags: str, faultpoint: str = "", process: Process | None = None, hsm: SoftHsm | None = None
    ) -> None:
        """Starts the controller anew; with a fault point it kills itself there; perhaps on another token."""
        hsm, process = hsm or self.hsm, process or self.controller
        process.stop()
        self._started = [p for p in self._started if p.pid is not None]
        if not self._started:
            self._give_back_lease()
        environment = {"PYTHONPATH": str(REPOSITORY / "operator"), "KEYSHRED_FAULTPOINT": faultpoint} | hsm.env
        process.start([*self._command, *flags, f"--token-uri={hsm.uri}"], environment)
        self._started.append(process)

    def _give_back_lease(self) -> None:
        # As a person may who knows that nobody is left who holds it: what is tested here is not how long that takes.
        try:
            lease = cast(Any, self._leases.read_namespaced_lease(CONTROLLER_LEASE, OWN))
        except client.ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return
        if lease.spec.holder_identity:
            lease.spec.holder_identity = ""
            self._leases.replace_namespaced_lease(CONTROLLER_LEASE, OWN, lease)

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
            # A call that is given up may have been made all the same: a fault point behind it is then never reached.
            "--lease-duration=30",
            "--hsm-deadline=7",
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
        """Raises ClusterError."""
        if kind in _OURS:
            return self._get_ours(kind, name)
        obj: Json = self.kubectl("get", kind, name, *more)
        return obj

    def _get_ours(self, kind: str, name: str) -> Json:
        # Asked again and again while tests wait: kubectl would need more of the machine than what is waited for.
        try:
            return self._ask_for(kind, name)
        except (client.ApiException, HTTPError) as error:
            raise ClusterError(f"{kind} {name}: {error}") from error

    def _ask_for(self, kind: str, name: str) -> Json:
        return cast(Json, self._api.get_cluster_custom_object(GROUP, VERSION, f"{kind}s", name))

    def is_gone(self, kind: str, name: str) -> bool:
        """Whether the API server says that this object of ours is not there; not where it says something else."""
        try:
            self._ask_for(kind, name)
        except client.ApiException as error:
            return bool(error.status == HTTPStatus.NOT_FOUND)
        except HTTPError:
            pass
        return False

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

    def message(self, name: str) -> str:
        """The message of Ready."""
        conditions = self.get("rootkey", name)["status"]["conditions"]
        return str(next(c["message"] for c in conditions if c["type"] == "Ready"))

    def stalled(self, key_id: str) -> str:
        """The reason of Stalled; empty where nothing is."""
        conditions = self.get("keyrecord", key_id)["status"].get("conditions", ())
        return str(next((c["reason"] for c in conditions if c["type"] == "Stalled"), ""))

    def seal(self, namespace: str, name: str, key_id: str) -> None:
        """Creates a Secret that counts as sealed under the key; nobody can open it."""
        self.kubectl.create(sealed(namespace, name, key_id))

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
            key_id, uid = UUID(spec["keyID"]), meta["uid"]
            await Records(kube).admit_delete(key_id, name, by="key-admin", root_key_uid=uid)
            await kube.close()

        asyncio.run(append())

    def delete(self, name: str) -> None:
        self.admit(name)
        self.kubectl.run("delete", "rootkey", name, "--wait=false")

    def clear(self) -> None:
        """Removes the RootKeys and KeyRecords of earlier tests, whose keys stay where they are."""
        self.controller.stop()
        for key in self.kubectl("get", "rootkeys")["items"]:
            named = key["metadata"]["name"]
            self.kubectl.run("patch", "rootkey", named, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        self.kubectl.run("delete", "rootkeys,keyrecords,keyauthorizations", "--all")

    def on_token(self, key_id: str) -> int:
        """Objects of the key, as a process that was not there before sees them."""
        return int(token_tool.ask(self.hsm, "find", key_id))

    def generate(self, key_id: str) -> None:
        """Makes a key behind the controller's back."""
        token_tool.ask(self.hsm, "generate", key_id)

    def import_twins(self, *key_ids: str) -> None:
        """Puts one key under several key IDs."""
        token_tool.ask(self.hsm, "import", *key_ids)

    def destroy(self, key_id: str) -> None:
        """Destroys one so."""
        token_tool.ask(self.hsm, "destroy", key_id)

    def claim(self, key_id: str, cluster_uid: str) -> None:
        """Claims the key for another cluster."""
        token_tool.ask(self.hsm, "claim", key_id, cluster_uid)

    def claims(self, key_id: str) -> set[str]:
        """UIDs of the clusters that claim the key."""
        return set(token_tool.ask(self.hsm, "claims", key_id).split())

    def head(self, key_id: str) -> Json:
        """The ledger's head on the token; {}: there is none."""
        return dict(json.loads(token_tool.ask(self.hsm, "head", key_id) or "{}"))

    def set_head(self, key_id: str, head: Json) -> None:
        """Writes the ledger's head, as another cluster would."""
        token_tool.ask(self.hsm, "set-head", key_id, json.dumps(head))

    def remove_data_object(self, label: str) -> None:
        """What a person does to overrule a guard: with the token's own tools, and its PIN."""
        login = ["--token-label", self.hsm.label, "--login", "--pin", self.hsm.pin_file.read_text()]
        command = ["pkcs11-tool", "--module", str(MODULE), *login, "--delete-object", "--type=data", f"--label={label}"]
        subprocess.run(command, env=os.environ | self.hsm.env, check=True, capture_output=True)

    def cluster_uid(self) -> str:
        """UID of the namespace kube-system."""
        return str(self.get("namespace", "kube-system")["metadata"]["uid"])

    def put_record(self, record: Json) -> None:
        """Makes this the KeyRecord, as a restore from a backup does."""
        name = record["metadata"]["name"]
        self.kubectl.run("delete", "keyrecord", name, "--ignore-not-found")
        bare = {k: record[k] for k in ("apiVersion", "kind", "spec")} | {"metadata": {"name": name}}
        made: Json = self.kubectl("create", "-f", "-", input=json.dumps(bare))
        status = json.dumps(made | {"status": record["status"]})
        self.kubectl.run("replace", "--subresource=status", "-f", "-", input=status)


def sealed(namespace: str, name: str, key_id: str) -> Json:
    """A Secret whose metadata says that it is sealed under the key; what it holds is noise."""
    envelope = Envelope(
        key_id=UUID(key_id),
        key_version=1,
        mechanism=Mechanism.AES_GCM,
        wrapped_dek=bytes(60),
        commit=bytes(16),
        namespace=namespace,
        name=name,
        born=Born.SEALED,
        born_at=utc_now().replace(microsecond=0),
    )
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {LABEL_KEY_ID: key_id},
        "annotations": {ANNOTATION_ENVELOPE: serialise(envelope)},
    }
    data = {"a": base64.b64encode(b"KSH1" + bytes(28)).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def until(what: Callable[[], T], seconds: float = STARTS_AGAIN) -> T:
    """Waits for something true; the last answer is in the failure."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"still {answer!r}"
        time.sleep(0.3)
    return answer


def until_equal(what: Callable[[], T], wanted: T, seconds: float = STARTS_AGAIN) -> None:
    """Waits until `what()` is `wanted`."""
    end = time.monotonic() + seconds
    while (answer := what()) != wanted:
        assert time.monotonic() < end, f"still {answer!r}, not {wanted!r}"
        time.sleep(0.3)


ACTIVE: Final = ["Created", "GenerateStarted", "Generated", "Activated"]
DESTROYED: Final = [*ACTIVE, "DeleteAdmitted", "DestructionStarted", "ControlPassed", "ObjectsDestroyed", "Destroyed"]
