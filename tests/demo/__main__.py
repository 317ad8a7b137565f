"""Two tenants, two root keys, one deleted: `python -m tests.demo`."""

import json
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.cluster import accounts
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError
from tests.cluster.keyshred import Keyshred
from tests.cluster.softhsm import SoftHsm
from tests.demo.asking import Asking
from tests.demo.stage import Unexpected, chapter, check, command, fail, kubectl, say, show

_AUDIENCE: Final = "keyshred.dev"
_PASSWORDS: Final = {"tenant-a": "correct-horse-battery-staple", "tenant-b": "swordfish-for-tenant-b"}
_COUNT_EVERY: Final = 3
"""Seconds between counts of the dependents; the default is a minute, which is long for an audience."""
_UNPROTECTED: Final = "this-one-can-be-read-by-anyone"


def _root_key(tenant: str) -> str:
    return f"""\
apiVersion: keyshred.dev/v1alpha1
kind: RootKey
metadata: {{name: {tenant}}}
spec: {{}}
---
apiVersion: keyshred.dev/v1alpha1
kind: KeyAuthorization
metadata: {{name: {tenant}}}
spec:
  rootKeyRef: {{name: {tenant}}}
  namespaces: {{names: [{tenant}]}}
  subjects: [{{namespace: {tenant}, name: app, allowUnbound: true}}]
"""


def _secret(tenant: str) -> str:
    return f"""\
apiVersion: v1
kind: Secret
metadata: {{name: database, namespace: {tenant}}}
stringData: {{password: {_PASSWORDS[tenant]}}}
"""


@dataclass
class Demo:
    """The parts on stage."""

    cluster: ControlPlane
    keyshred: Keyshred

    def play(self) -> None:
        """The whole story. Raises Unexpected at the first thing that is not as told."""
        self._keys()
        self._secrets()
        self._etcd()
        self._unseal()
        self._reapply()
        key_id = self._shred()
        self._afterwards()
        self._record(key_id)

    def _keys(self) -> None:
        chapter("Two tenants get a key each")
        say(
            "A RootKey is an AES-256 key that is made inside the PKCS#11 token and cannot leave it. A KeyAuthorization "
            "says which namespaces it protects and which ServiceAccounts may read."
        )
        for tenant in _PASSWORDS:
            kubectl(self.cluster.kubectl, "create", "namespace", tenant)
            for account in ("app", "intruder"):
                kubectl(self.cluster.kubectl, "create", "serviceaccount", account, "-n", tenant)
            kubectl(self.cluster.kubectl, "apply", "-f", "-", input=_root_key(tenant))
        names = [f"{kind}/{tenant}" for tenant in _PASSWORDS for kind in ("rootkey", "keyauthorization")]
        kubectl(self.cluster.kubectl, "wait", "--for=condition=Ready", "--timeout=30s", *names)
        kubectl(self.cluster.kubectl, "get", "rootkeys,keyauthorizations")
        kubectl(self.cluster.kubectl, "get", "namespaces", "-L", "keyshred.dev/sealing")

    def _secrets(self) -> None:
        chapter("Each tenant stores a Secret, as always")
        for tenant in _PASSWORDS:
            kubectl(self.cluster.kubectl, "apply", "-f", "-", input=_secret(tenant))
        kubectl(self.cluster.kubectl, "get", "secret", "database", "-n", "tenant-a", "-o", "yaml")
        say("And one for comparison, in a namespace that no KeyAuthorization covers:")
        literal = f"--from-literal=password={_UNPROTECTED}"
        kubectl(self.cluster.kubectl, "create", "secret", "generic", "comparison", "-n", "default", literal)

    def _etcd(self) -> None:
        chapter("What is in etcd")
        key = "/registry/secrets/tenant-a/database"
        command(f"etcdctl get {key} | hexdump -C")
        show(_hexdump(self.cluster.etcd_raw(key)[key]))
        values = list(self.cluster.etcd_raw().values())
        files = [f.read_bytes() for f in self.cluster.etcd_data.rglob("*") if f.is_file()]
        check(
            _holds(values, _UNPROTECTED) and _holds(files, _UNPROTECTED), "the comparison's password is found at once"
        )
        for tenant, password in _PASSWORDS.items():
            check(
                not _holds(values, password), f"the password of {tenant} is in none of the {len(values)} values in etcd"
            )
        size = sum(map(len, files)) // 1024
        check(
            not any(_holds(files, password) for password in _PASSWORDS.values()),
            f"nor anywhere in the {size} KiB of etcd's files on disk, log of all writes included",
        )

    def _unseal(self) -> None:
        chapter("Who may read")
        say(
            "A ServiceAccount that the KeyAuthorization names asks keyshred, with a token for keyshred alone, as from "
            "`kubectl create token app -n tenant-a --audience=keyshred.dev`:"
        )
        check(self._ask("tenant-a", "app")[0] == 200, "tenant-a/app gets the password")
        check(self._ask("tenant-a", "intruder")[0] == 403, "tenant-a/intruder is refused")
        check(
            self._ask("tenant-a", "app", caller_namespace="tenant-b")[0] == 403, "tenant-b/app is refused in tenant-a"
        )
        check(self._ask("tenant-b", "app")[0] == 200, "tenant-b/app gets its own")

    def _reapply(self) -> None:
        chapter("GitOps: the same manifest again changes nothing")
        before = self._version("tenant-a")
        kubectl(self.cluster.kubectl, "apply", "-f", "-", input=_secret("tenant-a"))
        check(self._version("tenant-a") == before, f"resourceVersion is {before}, before and after")

    def _shred(self) -> str:
        chapter("The RootKey of tenant-a is deleted")
        key_id: str = self.cluster.kubectl("get", "rootkey", "tenant-a")["spec"]["keyID"]
        self.cluster.kubectl.run(
            *("wait", "--for=jsonpath={.status.dependents.secrets}=1", "rootkey/tenant-a", "--timeout=30s")
        )
        kubectl(self.cluster.kubectl, "get", "rootkeys")
        token = self._token("tenant-a", "app")
        say("While tenant-a/app asks again and again, without a pause:")
        asking = Asking(lambda: self.keyshred.unseal("tenant-a", "database", token)[0])
        with asking:
            time.sleep(1)
            asked = time.monotonic()
            kubectl(self.cluster.kubectl, "delete", "rootkey", "tenant-a", "--wait=false")
            time.sleep(3)
        show("answers, in order: " + asking.summary())
        check(asking.count(200, until=asked) > 0, "up to the delete tenant-a/app was served")
        late = max(asking.last(200) - asked, 0)
        check(late < 1, f"the last one was served {late:.2f} s after kubectl was called to delete the key")
        kubectl(self.cluster.kubectl, "wait", "--for=delete", "rootkey/tenant-a", "--timeout=30s")
        check(self._ask("tenant-a", "app")[0] == 410, "the answer is now: gone, for ever")
        return key_id

    def _afterwards(self) -> None:
        chapter("Everything else goes on")
        kubectl(self.cluster.kubectl, "get", "secrets", "-A")
        check(self._ask("tenant-b", "app")[0] == 200, "tenant-b notices nothing")
        kubectl(self.cluster.kubectl, "delete", "secret", "database", "-n", "tenant-a")

    def _record(self, key_id: str) -> None:
        chapter("The record: what was destroyed, when and by whom")
        kubectl(self.cluster.kubectl, "get", "keyrecords")
        record = self.cluster.kubectl("get", "keyrecord", key_id)
        command(f"kubectl get keyrecord {key_id} -o json | jq .status")
        show(json.dumps(record["status"]["evidence"], indent=1))
        for t in record["status"]["transitions"]:
            show(f"{t['seq']:>3}  {t['time']}  {t['action']:<20} by {t['by']}")
        check(record["status"]["state"] == "Destroyed", "the KeyRecord says Destroyed")
        check(record["status"]["evidence"]["requestedBy"] == "test-admin", "and who asked for it")
        say(
            "The record is not signed yet, and says so. The token is software, and the record says that too: its class "
            "is software-logical. docs/limits.md tells what that means."
        )

    def _ask(self, namespace: str, account: str, caller_namespace: str | None = None) -> tuple[int, bytes]:
        caller = caller_namespace or namespace
        status, body, _ = self.keyshred.unseal(namespace, "database", self._token(caller, account))
        command(f"curl -X POST …/v1/namespaces/{namespace}/secrets/database/unseal   # as {caller}/{account}")
        show(f"{status} {body.decode()}")
        return status, body

    def _token(self, namespace: str, account: str) -> str:
        return accounts.token(self.cluster.kubectl, namespace, account, audience=_AUDIENCE)

    def _version(self, namespace: str) -> str:
        secret: Any = self.cluster.kubectl("get", "secret", "database", "-n", namespace)
        return str(secret["metadata"]["resourceVersion"])


def _hexdump(raw: bytes, head: int = 160, tail: int = 160) -> str:
    """As hexdump -C shows it, less the middle."""
    lines = []
    for at in range(0, len(raw), 16):
        row = raw[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{at:08x}  {row.hex(' '):<47}  |{text}|")
    return "\n".join([*lines[: head // 16], f"... {len(raw)} bytes in all ...", *lines[-tail // 16 :]])


def _holds(haystack: list[bytes], text: str) -> bool:
    return any(text.encode() in raw for raw in haystack)


@contextmanager
def _stage() -> Iterator[Demo]:
    with ControlPlane.temporary("demo") as cluster:
        token = SoftHsm.create(cluster.directory / "token")
        keyshred = Keyshred(cluster, token, controller_flags=[f"--resync={_COUNT_EVERY}"])
        keyshred.up()
        yield Demo(cluster, keyshred)


def main() -> int:
    """0 if everything was as told."""
    chapter("Starting etcd, kube-apiserver, a PKCS#11 token and keyshred on this machine")
    try:
        with _stage() as demo:
            say(
                f"kube-apiserver at {demo.cluster.url}, keyshred's webhook at {demo.keyshred.url} with two worker "
                "processes, and its controller; the token is SoftHSM."
            )
            demo.play()
            chapter("Cleaning up")
    except (Unexpected, ClusterError, urllib.error.URLError) as error:
        fail(error)
        return 1
    say("Done: every process of the demo is stopped, and its files are gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
