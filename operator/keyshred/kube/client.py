"""A thin JSON client over the credentials and the connection pool of kubernetes.aio.

Its generated methods build a model per object and print bodies at DEBUG; on the unseal path and around Secrets we want
neither, and the custom resources are plain dicts anyway.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import orjson
from kubernetes.aio import client, config
from kubernetes.aio.config.config_exception import ConfigException

from keyshred.errors import ConfigInvalid, Conflict, KubeUnavailable, NotFound, Refused, WatchExpired
from keyshred.names import GROUP, VERSION

Json = dict[str, Any]

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1"
"""What `kubectl get` shows: for a Secret its metadata, its type and the number of its keys, and no value."""

_TIMEOUT: Final = 10.0
"""Seconds for one request; a watch sets its own."""
_OWN_WORDS: Final = re.compile(
    r"admission webhook \"secrets\.keyshred\.dev\" denied the request: (?P<own>.*)"
    r"|(Internal error occurred: )?failed calling webhook \"secrets\.keyshred\.dev\"",
    re.DOTALL,
)
"""Messages about a Secret that hold no value, since keyshred or the API server itself wrote them."""


def path(
    resource: str, name: str = "", *, namespace: str = "", group: str = "", version: str = "", sub: str = ""
) -> str:
    """URL path of a resource; the core group is the empty one."""
    parts = ["apis", group, version] if group else ["api", "v1"]
    parts += ["namespaces", namespace] if namespace else []
    parts += [p for p in (resource, name, sub) if p]
    return "/" + "/".join(quote(p, safe="") for p in parts)


def own_path(resource: str, name: str = "", sub: str = "") -> str:
    """URL path of one of keyshred's custom resources."""
    return path(resource, name, group=GROUP, version=VERSION, sub=sub)


class Kube:
    """One connection pool to the API server.

    Every method raises KubeUnavailable (no answer, 5xx, 429), NotFound, Conflict or Refused (any other 4xx).
    """

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        # The pool of kubernetes.aio, made by it with its TLS settings, and a buffer that takes a watch event of 4 MiB.
        self._session: aiohttp.ClientSession = api.rest_client._create_pool_manager()
        # Each watch keeps a connection for itself, and there is one for each sealing namespace.
        api.rest_client.maxsize = 0
        self._watches: aiohttp.ClientSession = api.rest_client._create_pool_manager()

    @classmethod
    async def connect(cls, kubeconfig: str) -> "Kube":
        """From a kubeconfig file, or as the pod's ServiceAccount where the path is empty. Raises ConfigInvalid."""
        configuration = client.Configuration()
        configuration.connection_pool_maxsize = 128
        # A proxy of the environment is for other servers than this one, and a netrc's password for none. Looking for
        # both at each request, in another thread, also cost a fifth of an unseal.
        configuration.client_session_kwargs = {"trust_env": False}
        try:
            if kubeconfig:
                await config.load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
            else:
                config.load_incluster_config(client_configuration=configuration)
        except (ConfigException, OSError) as error:
            source = kubeconfig or "the pod's ServiceAccount"
            raise ConfigInvalid(f"no credentials for the API server in {source}") from error
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        """Closes the pool."""
        await self._session.close()
        await self._watches.close()
        await self._api.close()

    async def get(self, url: str, *, accept: str = "application/json", params: Mapping[str, str] | None = None) -> Json:
        """GET: an object or a list; without `resourceVersion` it is consistent (a quorum read)."""
        return await self._json("GET", url, accept=accept, params=params)

    async def create(self, url: str, body: Json) -> Json:
        """POST. Raises Conflict where the object exists."""
        return await self._json("POST", url, body=body)

    async def replace(self, url: str, body: Json, *, accept: str = "application/json") -> Json:
        """PUT: succeeds only on the resourceVersion in `body`."""
        return await self._json("PUT", url, body=body, accept=accept)

    async def patch(
        self, url: str, body: Json, *, accept: str = "application/json", params: Mapping[str, str] | None = None
    ) -> Json:
        """Merge patch (RFC 7396); a `resourceVersion` in it makes it conditional."""
        return await self._json("PATCH", url, body=body, content_type=MERGE_PATCH, accept=accept, params=params)

    async def json_patch(self, url: str, operations: list[Json]) -> Json:
        """JSON patch (RFC 6902). Raises Refused where one of its tests does not hold."""
        return await self._json("PATCH", url, body=operations, content_type=JSON_PATCH)

    async def delete(self, url: str) -> Json:
        """DELETE."""
        return await self._json("DELETE", url)

    async def list_all(
        self, url: str, *, accept: str = "application/json", selector: str = "", fields: str = ""
    ) -> AsyncIterator[Json]:
        """Pages through a collection, 500 objects a request; by label selector and field selector."""
        params = {"limit": "500"} | ({"labelSelector": selector} if selector else {})
        params |= {"fieldSelector": fields} if fields else {}
        while True:
            page = await self.get(url, accept=accept, params=params)
            for item in page["items"] or ():  # null in an empty PartialObjectMetadataList
                yield item
            following = page["metadata"].get("continue")
            if not following:
                return
            params["continue"] = following

    async def watch(
        self,
        url: str,
        resource_version: str,
        *,
        seconds: int = 300,
        accept: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Json]:
        """Watch events `{type, object}` from `resource_version` on, bookmarks included.

        Ends when the server ends it. Raises WatchExpired where the version is too old.
        """
        params = dict(params or {}) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        timeout = aiohttp.ClientTimeout(total=seconds + 10, sock_connect=_TIMEOUT)
        headers, pool = {"Accept": accept}, self._watches
        async with self._request("GET", url, params=params, headers=headers, timeout=timeout, pool=pool) as response:
            await _check(response, url)
            async for line in response.content:
                event: Json = orjson.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise WatchExpired(f"{url}: the watch is too far behind")
                    raise KubeUnavailable(f"{url}: {event['object'].get('reason')}")
                yield event

    async def _json(
        self,
        method: str,
        url: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        data = orjson.dumps(body) if body is not None else None
        async with self._request(method, url, params=params, headers=headers, data=data, timeout=timeout) as response:
            await _check(response, url)
            parsed: Json = orjson.loads(await response.read())
            return parsed

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        pool: aiohttp.ClientSession | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        # Asked for each time: an in-cluster token is renewed on disk, and the hook behind this call reads it again.
        try:
            settings = await self._api.configuration.auth_settings()
        except (ConfigException, OSError) as error:
            raise KubeUnavailable("the ServiceAccount's token cannot be read") from error
        auth = {"Authorization": settings["BearerToken"]["value"]} if "BearerToken" in settings else {}
        try:
            async with (pool or self._session).request(
                method, self._api.configuration.host + url, headers=auth | dict(headers or {}), **kwargs
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            raise KubeUnavailable(f"API server: {method} {url}: {type(error).__name__}") from error
        except orjson.JSONDecodeError:
            # No cause: it quotes the body. Cut off, or a proxy's own page.
            raise KubeUnavailable(f"API server: {method} {url}: the answer is no JSON") from None


async def _check(response: aiohttp.ClientResponse, url: str) -> None:
    if response.status < 400:
        return
    try:
        status = orjson.loads(await response.read())
        message = str(status.get("message", ""))
        fields = frozenset(c.get("field", "") for c in (status.get("details") or {}).get("causes") or ())
    except (orjson.JSONDecodeError, AttributeError):
        message, fields = "", frozenset()
    # The message of a refused Secret may quote what was sent, so only keyshred's own is let into a Secret's error.
    own = _OWN_WORDS.match(message)
    text = f"{url}: HTTP {response.status}" + (f": {message}" if message and (own or "/secrets" not in url) else "")
    match response.status:
        case 404:
            raise NotFound(text)
        case 409:
            raise Conflict(text)
        case 410:
            raise WatchExpired(text)
        case code if code >= 500 or code == 429:
            raise KubeUnavailable(text)
        case _:
            raise Refused(text, fields=fields, reason=(own and own["own"]) or "")
