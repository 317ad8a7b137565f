"""kopf, for what it is good at: watching resources that come and go. Everything it sees becomes a job."""

import logging
from collections.abc import Callable
from typing import Any

import kopf
from kubernetes.aio import client, config

from keyshred.controller.parts import COUNT_SOON, Job, Kind
from keyshred.names import GROUP, KEY_AUTHORIZATIONS, ROOT_KEYS, VERSION


class Watch:
    """Handlers on events only: state handlers would copy whole objects into annotations."""

    def __init__(self, enqueue: Callable[[Job, float], None], kubeconfig: str) -> None:
        self._enqueue = enqueue
        self._kubeconfig = kubeconfig
        self._seen: dict[tuple[str, str], object] = {}

    async def run(self) -> None:
        """Watches until it is cancelled or the process gets SIGTERM or SIGINT."""
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # else a line for each event
        await kopf.operator(registry=self._registry(), settings=settings, standalone=True, clusterwide=True)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="credentials")(self._login)
        kopf.on.event(GROUP, VERSION, ROOT_KEYS, registry=registry, id="rootkeys")(self._root_key)
        kopf.on.event(GROUP, VERSION, KEY_AUTHORIZATIONS, registry=registry, id="authorizations")(self._authorization)
        kopf.on.event("", "v1", "namespaces", registry=registry, id="namespaces")(self._namespace)
        return registry

    async def _login(self, **kwargs: Any) -> kopf.ConnectionInfo | None:
        if not self._kubeconfig:
            return kopf.login_with_service_account(**kwargs)
        loaded = client.Configuration()
        await config.load_kube_config(self._kubeconfig, client_configuration=loaded, persist_config=False)
        scheme, _, token = loaded.api_key.get("BearerToken", "").partition(" ")
        return kopf.ConnectionInfo(
            server=loaded.host,
            ca_path=loaded.ssl_ca_cert,
            certificate_path=loaded.cert_file,
            private_key_path=loaded.key_file,
            scheme=scheme or None,
            token=token or None,
        )

    async def _root_key(self, name: str, **_: Any) -> None:
        self._enqueue(Job(Kind.ROOT_KEY, name), 0)

    async def _authorization(self, name: str, event: Any, meta: Any, **_: Any) -> None:
        # Its status is ours: writing it must not start the next round.
        if self._is_new("authorization", name, event, (meta["uid"], meta.get("generation"))):
            self._enqueue(Job(Kind.NAMESPACES), 0)
            self._enqueue(Job(Kind.COUNT), COUNT_SOON)

    async def _namespace(self, name: str, event: Any, meta: Any, **_: Any) -> None:
        what = (meta["uid"], dict(meta.get("labels") or {}), meta.get("deletionTimestamp"))
        if self._is_new("namespace", name, event, what):
            self._enqueue(Job(Kind.NAMESPACES), 0)

    def _is_new(self, kind: str, name: str, event: Any, what: object) -> bool:
        if event["type"] == "DELETED":
            return self._seen.pop((kind, name), None) is not None
        if self._seen.get((kind, name)) == what:
            return False
        self._seen[kind, name] = what
        return True
