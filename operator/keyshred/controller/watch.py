"""kopf, for what it is good at: watching resources that come and go. Everything it sees becomes a job."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import kopf
from kubernetes.aio import client, config

from keyshred.controller.parts import COUNT_SOON, Job, Kind
from keyshred.errors import KeyshredError, KubeUnavailable, NotFound
from keyshred.kube.client import Json, Kube, own_path, path
from keyshred.names import ANNOTATION_HELD, GROUP, KEY_AUTHORIZATIONS, ROOT_KEYS, VERSION

log = logging.getLogger(__name__)

_CRDS: Final = "customresourcedefinitions"
_EXTENSIONS: Final = {"group": "apiextensions.k8s.io", "version": "v1"}

_PAUSE: Final = 1.0
"""Seconds before kopf is started again after it failed, so that a lasting cause does not make it spin."""


class Watch:
    """Handlers on events only: state handlers would copy whole objects into annotations.

    kopf looks for its resources when it starts and when a CRD changes, and then only once. The API server lists a
    resource a moment after it calls the CRD Established; so where a CRD of ours is another than the one that was served
    when kopf started, `look_again` starts it anew as soon as the resources are listed.
    """

    def __init__(self, kube: Kube, enqueue: Callable[[Job, float], None], kubeconfig: str) -> None:
        self._kube = kube
        self._enqueue = enqueue
        self._loop = asyncio.get_running_loop()
        self._kubeconfig = kubeconfig
        self._seen: dict[tuple[str, str], object] = {}
        self._known: set[str] = set()
        """UIDs of our CRDs that this run of kopf serves, or that `look_again` was asked for."""
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def run(self) -> None:
        """Watches until it is cancelled, or kopf ends by itself; one that failed is started anew."""
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # else a line for each event
        # It warns that signals are not its business in this thread, which is as it should be.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
        while True:
            self._known = await self._served()
            self._enqueue(Job(Kind.RESYNC), 0)  # what went while nobody watched
            # In a thread and a loop of its own: where kopf ends, it cancels all tasks in its loop that were not there
            # when it began, whoever made them.
            own, stop = self._running = asyncio.new_event_loop(), asyncio.Event()
            thread = self._loop.run_in_executor(None, self._operate, own, stop)
            failed = False
            try:
                await asyncio.shield(thread)
            except Exception as error:
                # Where a watch is renewed just as its CRD goes, kopf takes the 404 for the end of everything.
                log.error("kopf failed: %s; watching starts anew", type(error).__name__)
                failed = True
            finally:
                self._stop()
                await asyncio.wait([thread])
            if failed:
                await asyncio.sleep(_PAUSE)
            elif not stop.is_set():
                return

    async def look_again(self) -> None:
        """Starts kopf anew. Raises KubeUnavailable while the API server does not list our resources yet."""
        if not await self._listed():
            raise KubeUnavailable(f"the API server does not list the resources of {GROUP} yet")
        log.info("the CRDs are new: watching starts anew")
        self._stop()

    def _stop(self) -> None:
        if self._running is not None:
            loop, stop = self._running
            with contextlib.suppress(RuntimeError):  # closed: it ended by itself
                loop.call_soon_threadsafe(stop.set)

    async def _served(self) -> set[str]:
        """UIDs of our CRDs where all that is watched is listed; else none, so that each will be looked at again."""
        try:
            crds = [c async for c in self._kube.list_all(path(_CRDS, **_EXTENSIONS)) if _is_served(c)]
            return {c["metadata"]["uid"] for c in crds} if await self._listed() else set()
        except KeyshredError as error:
            log.warning("CRDs: %s", error)
            return set()

    async def _listed(self) -> bool:
        try:
            listed = await self._kube.get(own_path(""))
        except NotFound:
            return False
        return {ROOT_KEYS, KEY_AUTHORIZATIONS} <= {r["name"] for r in listed["resources"]}

    def _operate(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(
                kopf.operator(
                    registry=self._registry(), settings=settings, standalone=True, clusterwide=True, stop_flag=stop
                )
            )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="credentials")(self._login)
        kopf.on.event(GROUP, VERSION, ROOT_KEYS, registry=registry, id="rootkeys")(self._root_key)
        kopf.on.event(GROUP, VERSION, KEY_AUTHORIZATIONS, registry=registry, id="authorizations")(self._authorization)
        kopf.on.event("", "v1", "namespaces", registry=registry, id="namespaces")(self._namespace)
        kopf.on.event(_EXTENSIONS["group"], "v1", _CRDS, registry=registry, id="crds")(self._crd)
        return registry

    async def _login(self, **kwargs: Any) -> kopf.ConnectionInfo:
        loaded = client.Configuration()
        if self._kubeconfig:
            await config.load_kube_config(self._kubeconfig, client_configuration=loaded, persist_config=False)
        else:
            # Asked again when the API server refuses the token: the kubelet renews it on disk.
            config.load_incluster_config(client_configuration=loaded)
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
        self._ask(Job(Kind.ROOT_KEY, name))

    async def _authorization(self, name: str, event: Any, meta: Any, **_: Any) -> None:
        # Its status is ours: writing it must not start the next round.
        if self._is_new("authorization", name, event, (meta["uid"], meta.get("generation"))):
            self._ask(Job(Kind.NAMESPACES))
            self._ask(Job(Kind.COUNT), COUNT_SOON)

    async def _namespace(self, name: str, event: Any, meta: Any, **_: Any) -> None:
        held = (meta.get("annotations") or {}).get(ANNOTATION_HELD)
        what = (meta["uid"], dict(meta.get("labels") or {}), held, meta.get("deletionTimestamp"))
        if self._is_new("namespace", name, event, what):
            self._ask(Job(Kind.NAMESPACES))

    async def _crd(self, body: Any, **_: Any) -> None:
        uid = body["metadata"]["uid"]
        if _is_served(body) and uid not in self._known:
            self._known.add(uid)
            self._ask(Job(Kind.WATCH))

    def _ask(self, job: Job, after: float = 0) -> None:
        self._loop.call_soon_threadsafe(self._enqueue, job, after)

    def _is_new(self, kind: str, name: str, event: Any, what: object) -> bool:
        if event["type"] == "DELETED":
            return self._seen.pop((kind, name), None) is not None
        if self._seen.get((kind, name)) == what:
            return False
        self._seen[kind, name] = what
        return True


def _is_served(crd: Json) -> bool:
    """Whether it is one of ours and the API server has begun to serve it."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    established = any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
    return bool(crd["spec"]["group"] == GROUP and established and not crd["metadata"].get("deletionTimestamp"))
