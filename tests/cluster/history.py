"""Every revision that etcd ever stored, as long as nobody compacts: what a backup of any moment could hold."""

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.cluster import paths
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError

KEEP_ALL: Final = ("--etcd-compaction-interval=0",)
"""Flag of the API server, which else compacts every five minutes."""

_PROTOBUF: Final = b"k8s\x00"
_END: Final = "/registry-history-ends-here"


@dataclass(frozen=True)
class Revision:
    """One value of one key."""

    key: str
    value: bytes


@dataclass(frozen=True)
class StoredSecret:
    """A Secret as one revision holds it."""

    namespace: str
    name: str
    type: str
    data: Mapping[str, bytes]
    annotations: Mapping[str, str]


def revisions(cluster: ControlPlane) -> Iterator[Revision]:
    """All that were put, in their order; deletions hold nothing. Errors: ClusterError (somebody compacted)."""
    cluster.etcdctl("put", _END, "")
    command = [str(paths.binaries() / "etcdctl"), f"--endpoints={cluster.etcd_url}"]
    command += ["watch", "/registry", "--prefix", "--rev=1", "--write-out=json"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as watch:
        assert watch.stdout is not None
        try:
            for line in watch.stdout:
                for event in json.loads(line).get("Events") or ():
                    key = base64.b64decode(event["kv"]["key"]).decode()
                    if key == _END:
                        return
                    if value := event["kv"].get("value"):
                        yield Revision(key, base64.b64decode(value))
        finally:
            watch.terminate()
    raise ClusterError("etcd does not hold its history from the first revision on")


def secret(revision: Revision) -> StoredSecret | None:
    """The Secret that the revision holds, if it is one (k8s.io/api/core/v1/generated.proto, runtime.Unknown)."""
    if not revision.key.startswith("/registry/secrets/") or not revision.value.startswith(_PROTOBUF):
        return None
    raw = dict(_fields(revision.value.removeprefix(_PROTOBUF)))[2]
    members = list(_fields(raw))
    meta = list(_fields(next(value for number, value in members if number == 1)))
    return StoredSecret(
        namespace=_text(meta, 3),
        name=_text(meta, 1),
        type=_text(members, 3),
        data={key.decode(): value for key, value in _map(members, 2)},
        annotations={key.decode(): value.decode() for key, value in _map(meta, 12)},
    )


def _text(members: list[tuple[int, bytes]], number: int) -> str:
    return next((value.decode() for found, value in members if found == number), "")


def _map(members: list[tuple[int, bytes]], number: int) -> Iterator[tuple[bytes, bytes]]:
    for found, entry in members:
        if found == number:
            pair = dict(_fields(entry))
            yield pair.get(1, b""), pair.get(2, b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the fields with a length (wire type 2); numbers (wire type 0) are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + value]
            at += value
        else:
            assert tag & 7 == 0, "a wire type that Secrets do not have"


def _varint(message: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, at
        shift += 7
