"""Creates, updates and unseals without a pause, over connections that are kept open."""

import base64
import contextlib
import http.client
import json
import ssl
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.cluster.keyshred import Keyshred
from tests.integration.system.tenant import Tenant, secret

_THREADS: Final = 3
_PAUSE: Final = 0.2
"""Seconds between rounds: the machine is also there for those who restart, and for other tests."""
_TIMEOUT: Final = 30.0


class Stream:
    """Rounds of create, update and unseal of one Secret each; what was acknowledged, and what failed."""

    def __init__(self, tenant: Tenant, unseal_port: int = 0) -> None:
        """`unseal_port`: of something between us and the webhook; 0: as the installation is reached."""
        self.tenant = tenant
        self.plaintext = f"stream-{uuid.uuid4().hex}"
        """What every value begins with."""
        self.failures: list[str] = []
        """What was not answered, or not with success."""
        self.wrong: list[str] = []
        """What was answered wrongly."""
        self.rounds = 0
        """How many ended with success."""
        self._values: dict[str, set[str]] = {}
        """What each Secret whose creation was acknowledged may hold: two values after an update that failed."""
        self._unseal_port = unseal_port
        self._token = tenant.token()
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator["Stream"]:
        """Streams meanwhile."""
        threads = [threading.Thread(target=self._stream) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def check(self) -> None:
        """Every Secret that was acknowledged is there, opens to its value, and is nowhere in plaintext."""
        assert self.wrong == []
        stored = self.tenant.keyshred.cluster.etcd_raw(f"/registry/secrets/{self.tenant.name}/")
        assert not [key for key, value in stored.items() if self.plaintext.encode() in value]
        with contextlib.closing(_Caller(self)) as calls:
            for name, values in self._values.items():
                status, body = calls.unseal(name)
                assert status == 200 and _value(body) in values, (name, status)
        assert self._values

    def _stream(self) -> None:
        with contextlib.closing(_Caller(self)) as calls:
            while not self._stop.wait(_PAUSE):
                try:
                    self._round(calls, f"s-{uuid.uuid4().hex[:12]}")
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))

    def _round(self, calls: "_Caller", name: str) -> None:
        first, second = (f"{self.plaintext}-{uuid.uuid4().hex}" for _ in range(2))
        if not self._succeeds("create", *calls.create(name, first), 201):
            return
        self._values[name] = {first, second}
        if self._succeeds("update", *calls.update(name, second), 200):
            self._values[name] = {second}
        status, body = calls.unseal(name)
        if self._succeeds("unseal", status, body, 200):
            if _value(body) not in self._values[name]:
                self.wrong.append(name)
            self.rounds += 1

    def _succeeds(self, what: str, status: int, body: Mapping[str, Any], wanted: int) -> bool:
        if status != wanted:
            self.failures.append(f"{what}: {status} {body.get('message') or body.get('detail')}")
        return status == wanted


class _Caller:
    """Connections of one thread."""

    def __init__(self, stream: Stream) -> None:
        keyshred: Keyshred = stream.tenant.keyshred
        self._namespace = stream.tenant.name
        self._token = stream._token
        admin = keyshred.cluster.authority.issue("admin", "test-admin", organizations=["system:masters"])
        self._api = _connection(int(keyshred.cluster.url.rpartition(":")[2]), keyshred.tls(admin))
        port = stream._unseal_port
        self._webhook = _connection(port, keyshred.tls()) if port else keyshred.connection()

    def close(self) -> None:
        self._api.close()
        self._webhook.close()

    def create(self, name: str, value: str) -> tuple[int, dict[str, Any]]:
        path = f"/api/v1/namespaces/{self._namespace}/secrets"
        return _call(self._api, "POST", path, secret(self._namespace, name, {"a": value}))

    def update(self, name: str, value: str) -> tuple[int, dict[str, Any]]:
        path = f"/api/v1/namespaces/{self._namespace}/secrets/{name}"
        headers = {"Content-Type": "application/merge-patch+json"}
        return _call(self._api, "PATCH", path, {"stringData": {"a": value}}, headers)

    def unseal(self, name: str) -> tuple[int, dict[str, Any]]:
        path = f"/v1/namespaces/{self._namespace}/secrets/{name}/unseal"
        return _call(self._webhook, "POST", path, None, {"Authorization": f"Bearer {self._token}"})


def _connection(port: int, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=_TIMEOUT)


def _call(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    try:
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except BaseException:
        connection.close()  # the next call connects anew
        raise


def _value(body: Mapping[str, Any]) -> str:
    return base64.b64decode(body["data"]["a"]).decode()
