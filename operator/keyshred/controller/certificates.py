"""The webhook's certificates: kept in Secrets of keyshred's namespace, trusted by what clients read.

Three places hold the bundle of trusted authorities: the ConfigMap `keyshred-ca`, and `caBundle` of each webhook in the
two configurations. What replicas serve is in the Secret `keyshred-webhook-tls`. The authorities, ours or
cert-manager's, are in the Secret `keyshred-webhook-ca`, so that a restart goes on where it was. Every write is
conditional on what was read.
"""

import asyncio
import base64
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from keyshred.config import ControllerSettings
from keyshred.controller import x509
from keyshred.controller.x509 import Pair
from keyshred.errors import Conflict, KeyshredError, Malformed, NotFound
from keyshred.kube.client import Json, Kube, path
from keyshred.names import (
    ANNOTATION_SERVED_SINCE,
    CA_CONFIG_MAP,
    CA_SECRET,
    CERT_MANAGER_SECRET,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    TLS_SECRET,
    WEBHOOK_CONFIGURATION,
    WEBHOOK_SERVICE,
)
from keyshred.observe.process import where
from keyshred.policy import certificates
from keyshred.policy.certificates import Authority, Do, Leaf, Step, Terms
from keyshred.times import rfc3339, utc_now

log = logging.getLogger(__name__)

_LOOK: Final = 3.0
"""Seconds between looks: so long, at most, a bundle stays away that somebody took out."""
_ADMISSION: Final = {"group": "admissionregistration.k8s.io", "version": "v1"}
_CONFIGURATIONS: Final = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
SELF, CERT_MANAGER, NONE = "self", "cert-manager", "none"


@dataclass(frozen=True, slots=True)
class Kept:
    """An authority as the Secret keeps it."""

    pair: Pair
    published: datetime | None = None


@dataclass(frozen=True, slots=True)
class Expiry:
    """For metrics and readiness."""

    authority: datetime | None = None
    """When the newest one ends."""
    serving: datetime | None = None
    trusted: bool = False
    """What is served verifies under what is published."""


@dataclass(slots=True)
class _World:
    """One look at all of it."""

    authorities: list[Kept]
    stored: Json | None
    serving: Pair | None
    served: Json | None
    published: bool
    incoming: Pair | None = None
    """What cert-manager issued."""


class Certificates:
    """Keeps them, while this controller leads."""

    def __init__(self, kube: Kube, settings: ControllerSettings) -> None:
        self._kube = kube
        self._settings = settings
        self._namespace = settings.namespace
        self._hosts = serving_hosts(settings)
        self._terms = Terms(
            overlap=timedelta(seconds=settings.ca_overlap),
            lifetime=timedelta(seconds=settings.certificate_lifetime),
            authority_lifetime=timedelta(seconds=settings.ca_lifetime),
            makes_authorities=settings.certificates == SELF,
        )
        self.expiry = Expiry()
        self._told = ""

    async def run(self) -> None:
        """Until cancelled; nothing that goes wrong here ends the process."""
        while self._settings.certificates == NONE:
            await asyncio.sleep(3600)
        while True:
            await asyncio.sleep(0 if await self._look() else _LOOK)

    async def see(self) -> None:
        """Looks at how things are, for `expiry`, and changes nothing: of one that does not lead."""
        self._next(await self._world())

    async def _look(self) -> bool:
        """One step; whether there may be another one at once."""
        try:
            world = await self._world()
            step = self._next(world)
            if step.do is Do.NOTHING:
                self._told = ""
                return False
            await self._take(step, world)
            log.info("certificates: %s", step.do)
            return True
        except Conflict:
            return False  # somebody else wrote: look again
        except KeyshredError as error:
            self._tell(str(error))
        except Exception as error:
            self._tell(where(error))
        return False

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            log.error("certificates: %s", why)

    # --- what is there

    async def _world(self) -> _World:
        stored, served = await self._get("secrets", CA_SECRET), await self._get("secrets", TLS_SECRET)
        authorities = _authorities(stored)
        serving = _pair(served)
        if serving is not None and (served or {}).get("data", {}).get("ca.crt"):
            # Where the authorities' Secret was lost, what is served now has to stay trusted for a while.
            known = {kept.pair.id for kept in authorities}
            trusted = [Kept(Pair(pem)) for pem in x509.split(_decoded(served or {}, "ca.crt"))]
            authorities = [kept for kept in trusted if kept.pair.id not in known and not stored] + authorities
        incoming = None
        if self._settings.certificates == CERT_MANAGER:
            incoming, authorities = await self._incoming(authorities)
        world = _World(authorities, stored, serving, served, False, incoming)
        world.published = await self._is_published(_bundle(authorities))
        return world

    async def _incoming(self, authorities: list[Kept]) -> tuple[Pair | None, list[Kept]]:
        """What cert-manager has for us, and the authorities with its own as the newest."""
        source = await self._get("secrets", CERT_MANAGER_SECRET)
        incoming = _pair(source)
        if source is None or incoming is None:
            raise NotFound(f"the Secret {CERT_MANAGER_SECRET} is not there yet: see cert-manager's Certificate")
        roots = [Kept(Pair(pem)) for pem in x509.split(_decoded(source, "ca.crt") or incoming.certificate)]
        if not any(root.pair.issued(incoming) for root in roots) or not incoming.belongs():
            raise Malformed(
                f"the Secret {CERT_MANAGER_SECRET}: ca.crt did not issue tls.crt, or tls.key is another's: it is not "
                "taken, and what was served before is served on"
            )
        known = {kept.pair.id for kept in authorities}
        return incoming, authorities + [root for root in roots if root.pair.id not in known]

    async def _is_published(self, bundle: bytes) -> bool:
        for namespace in self._client_namespaces():
            found = await self._get("configmaps", CA_CONFIG_MAP, namespace)
            if found is None or (found.get("data") or {}).get("ca.crt") != bundle.decode():
                return False
        encoded = base64.b64encode(bundle).decode()
        for resource in _CONFIGURATIONS:
            configuration = await self._configuration(resource)
            if any(c.get("caBundle") != encoded for _, c in self._ours(configuration)):
                return False
        return True

    def _next(self, world: _World) -> Step:
        authorities = [self._as_authority(kept, world) for kept in world.authorities]
        leaf = self._as_leaf(world)
        self.expiry = Expiry(
            authorities[-1].not_after if authorities else None,
            leaf.not_after if leaf else None,
            certificates.is_served_and_trusted(authorities, leaf, published=world.published),
        )
        return certificates.next_step(authorities, leaf, published=world.published, terms=self._terms, now=utc_now())

    def _as_authority(self, kept: Kept, world: _World) -> Authority:
        parsed = kept.pair.parsed
        able = bool(kept.pair.key) if world.incoming is None else kept.pair.issued(world.incoming)
        return Authority(
            kept.pair.id, parsed.not_valid_before_utc + x509.BACKDATE, parsed.not_valid_after_utc, kept.published, able
        )

    def _as_leaf(self, world: _World) -> Leaf | None:
        if world.serving is None:
            return None
        parsed = world.serving.parsed
        issuers = [kept.pair.id for kept in world.authorities if kept.pair.issued(world.serving)]
        fits = world.serving.belongs() and self._hosts <= x509.hosts(world.serving.certificate)
        if world.incoming is not None:
            fits = world.serving.certificate == world.incoming.certificate
        since = ((world.served or {}).get("metadata", {}).get("annotations") or {}).get(ANNOTATION_SERVED_SINCE)
        issued = datetime.fromisoformat(since) if since else parsed.not_valid_before_utc + x509.BACKDATE
        return Leaf(issuers[-1] if issuers else "", issued, parsed.not_valid_after_utc, fits)

    # --- what is done about it

    async def _take(self, step: Step, world: _World) -> None:
        match step.do:
            case Do.MAKE_AUTHORITY:
                made = x509.make_authority(timedelta(seconds=self._settings.ca_lifetime), utc_now())
                await self._store([*world.authorities, Kept(made)], world)
            case Do.NOTE_PUBLISHED:
                noted = [
                    replace(kept, published=utc_now()) if kept.pair.id in step.of else kept
                    for kept in world.authorities
                ]
                await self._store(noted, world)
            case Do.DROP:
                await self._store([kept for kept in world.authorities if kept.pair.id not in step.of], world)
            case Do.PUBLISH:
                await self._publish(_bundle(world.authorities))
            case Do.ISSUE:
                await self._serve(step.of[0], world)

    async def _store(self, authorities: list[Kept], world: _World) -> None:
        entries = [
            {
                "certificate": kept.pair.certificate.decode(),
                "key": kept.pair.key.decode(),
                "published": None if kept.published is None else kept.published.isoformat(),
            }
            for kept in authorities
        ]
        data = {"authorities": orjson.dumps(entries), "ca.crt": _bundle(authorities)}
        await self._write_secret(CA_SECRET, "Opaque", data, world.stored)

    async def _serve(self, authority_id: str, world: _World) -> None:
        authority = next(kept.pair for kept in world.authorities if kept.pair.id == authority_id)
        lifetime = timedelta(seconds=self._settings.certificate_lifetime)
        leaf = world.incoming or x509.issue(authority, sorted(self._hosts), lifetime, utc_now())
        data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": _bundle(world.authorities)}
        since = {ANNOTATION_SERVED_SINCE: utc_now().isoformat()}
        await self._write_secret(TLS_SECRET, "kubernetes.io/tls", data, world.served, since)
        log.info("a new serving certificate, until %s", rfc3339(leaf.parsed.not_valid_after_utc))

    async def _write_secret(
        self, name: str, kind: str, data: dict[str, bytes], old: Json | None, annotations: dict[str, str] | None = None
    ) -> None:
        body: Json = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": kind,
            "metadata": {"name": name, "labels": {LABEL_MANAGED_BY: MANAGED_BY}, "annotations": annotations or {}},
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        if old is None:
            await self._kube.create(path("secrets", namespace=self._namespace), body)
            return
        body["type"] = old.get("type", kind)  # immutable
        given = old["metadata"].get("annotations") or {}
        body["metadata"] = old["metadata"] | {"annotations": given | (annotations or {})}
        await self._kube.replace(path("secrets", name, namespace=self._namespace), body)

    async def _publish(self, bundle: bytes) -> None:
        await self._publish_config_maps(bundle)
        encoded = base64.b64encode(bundle).decode()
        for resource in _CONFIGURATIONS:
            configuration = await self._configuration(resource)
            operations: list[Json] = []
            for number, client in self._ours(configuration):
                if client.get("caBundle") == encoded:
                    continue
                place = f"/webhooks/{number}"
                # Where the list was changed meanwhile, the number is another's.
                name = configuration["webhooks"][number]["name"]
                operations.append({"op": "test", "path": f"{place}/name", "value": name})
                operations.append({"op": "add", "path": f"{place}/clientConfig/caBundle", "value": encoded})
            if operations:
                await self._kube.json_patch(path(resource, WEBHOOK_CONFIGURATION, **_ADMISSION), operations)

    async def _publish_config_maps(self, bundle: bytes) -> None:
        for namespace in self._client_namespaces():
            body: Json = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": CA_CONFIG_MAP, "labels": {LABEL_MANAGED_BY: MANAGED_BY}},
                "data": {"ca.crt": bundle.decode()},
            }
            old = await self._get("configmaps", CA_CONFIG_MAP, namespace)
            if old is None:
                await self._kube.create(path("configmaps", namespace=namespace), body)
            elif old.get("data") != body["data"]:
                body["metadata"] = old["metadata"]
                await self._kube.replace(path("configmaps", CA_CONFIG_MAP, namespace=namespace), body)

    def _client_namespaces(self) -> list[str]:
        """Where clients mount the ConfigMap: keyshred's own namespace, and that of its DaemonSet."""
        return sorted({self._namespace, self._settings.node_namespace or self._namespace})

    async def _configuration(self, resource: str) -> Json:
        return await self._kube.get(path(resource, WEBHOOK_CONFIGURATION, **_ADMISSION))

    def _ours(self, configuration: Json) -> list[tuple[int, Json]]:
        """Number and clientConfig of the webhooks that our Service answers; one by URL has its own bundle."""
        found = []
        for number, webhook in enumerate(configuration.get("webhooks") or ()):
            client: Json = webhook["clientConfig"]
            service: dict[str, Any] = client.get("service") or {}
            if (service.get("name"), service.get("namespace")) == (WEBHOOK_SERVICE, self._namespace):
                found.append((number, client))
        return found

    async def _get(self, resource: str, name: str, namespace: str = "") -> Json | None:
        try:
            return await self._kube.get(path(resource, name, namespace=namespace or self._namespace))
        except NotFound:
            return None


def serving_hosts(settings: ControllerSettings) -> frozenset[str]:
    """Names of the Service, and those that the settings add."""
    short = f"{WEBHOOK_SERVICE}.{settings.namespace}"
    own = {WEBHOOK_SERVICE, short, f"{short}.svc", f"{short}.svc.{settings.cluster_domain}"}
    return frozenset(own | {host.strip() for host in settings.certificate_hosts.split(",") if host.strip()})


def _authorities(stored: Json | None) -> list[Kept]:
    if stored is None:
        return []
    try:
        return [
            Kept(
                Pair(entry["certificate"].encode(), entry["key"].encode()),
                None if entry["published"] is None else datetime.fromisoformat(entry["published"]),
            )
            for entry in orjson.loads(_decoded(stored, "authorities"))
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise Malformed(
            f"the Secret {CA_SECRET} is not as keyshred wrote it: delete it, and a new authority is made"
        ) from None


def _pair(secret: Json | None) -> Pair | None:
    """What a TLS Secret holds; None: nothing that could be served."""
    if secret is None:
        return None
    pair = Pair(_decoded(secret, "tls.crt"), _decoded(secret, "tls.key"))
    try:
        pair.parsed  # noqa: B018
    except Malformed:
        return None
    return pair


def _decoded(secret: Json, key: str) -> bytes:
    return base64.b64decode((secret.get("data") or {}).get(key) or "")


def _bundle(authorities: list[Kept]) -> bytes:
    """PEM of all, newest first: clients that read one certificate alone take the one that lasts."""
    return b"".join(kept.pair.certificate for kept in reversed(authorities))
