"""A collection of API objects kept by list and watch, whose age can be made certain by a consistent list."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from keyshred.errors import KeyshredError, NotFound, WatchExpired
from keyshred.kube.client import METADATA_LIST, Json, Kube

log = logging.getLogger(__name__)

_RETRY: Final = 1.0
"""Seconds between attempts to list and watch anew."""
_GET_ONE_BY_ONE: Final = 20
"""Changed objects up to which reading each is cheaper than listing all."""


class Collection:
    """Objects by name. `changed` is told each name whose object came, changed or went.

    Resource versions of one resource are integers that grow (Kubernetes API concepts, 1.35): the newer one wins,
    whether it comes by watch or by list. They fall only where etcd was restored: then all is forgotten and read anew.
    """

    def __init__(self, kube: Kube, url: str, changed: Callable[[str], None]) -> None:
        self._kube = kube
        self._url = url
        self._changed = changed
        self._versions: dict[str, int] = {}
        self._floor = 0
        """Version of the newest list: what a watch says of earlier ones is known already."""
        self._newest = 0
        """Newest version seen at all: a consistent list that begins now is no older."""
        self.objects: dict[str, Json] = {}
        self.synced = False
        """False until the first list, and while the resource itself does not exist: then nothing may be decided."""

    async def run(self) -> None:
        """Lists and watches until cancelled."""
        while True:
            try:
                version = await self._list()
                while True:
                    version = await self._watch(version)
            except WatchExpired:
                continue
            except NotFound:
                # The CRD is gone. What it held last must not go on deciding.
                self.synced = False
                log.warning("%s: no such resource; waiting for it", self._url)
            except KeyshredError as error:
                log.warning("%s: %s; listing anew", self._url, error)
            await asyncio.sleep(_RETRY)

    async def confirm(self) -> None:
        """Brings the collection to a state no older than this call, by a consistent list of metadata.

        Objects whose version differs are read whole. Raises what Kube.get raises; NotFound unsets `synced`.
        """
        try:
            items, version = await self._get_list(METADATA_LIST)
        except NotFound:
            self.synced = False
            raise
        stale = [
            item["metadata"]["name"]
            for item in items
            if int(item["metadata"]["resourceVersion"]) > self._versions.get(item["metadata"]["name"], 0)
        ]
        if len(stale) > _GET_ONE_BY_ONE:
            await self._list()
            return
        names = {item["metadata"]["name"] for item in items}
        for name, obj in zip(stale, await asyncio.gather(*map(self._get, stale)), strict=True):
            if obj is None:
                # Changed and then deleted since we knew it: what we have is older than this call, so it goes now.
                names.discard(name)
            else:
                self._put(obj)
        self._settle(names, version)
        self.synced = True

    async def _get(self, name: str) -> Json | None:
        try:
            return await self._kube.get(f"{self._url}/{name}")
        except NotFound:
            return None

    async def _list(self) -> str:
        items, version = await self._get_list("application/json")
        for obj in items:
            self._put(obj)
        self._settle({obj["metadata"]["name"] for obj in items}, version)
        self.synced = True
        return str(version)

    async def _get_list(self, accept: str) -> tuple[list[Json], int]:
        newest = self._newest
        listed = await self._kube.get(self._url, accept=accept)
        version = int(listed["metadata"]["resourceVersion"])
        if version < newest:
            log.error("%s: version %s after %s: etcd was restored; reading all anew", self._url, version, newest)
            self._forget()
        self._newest = max(self._newest, version)
        return listed["items"] or [], version  # an empty PartialObjectMetadataList has null there

    def _forget(self) -> None:
        self._floor = self._newest = 0
        self.synced = False  # nothing is decided on what is about to be read
        self._versions.clear()
        names = list(self.objects)
        self.objects.clear()
        for name in names:
            self._changed(name)

    async def _watch(self, version: str) -> str:
        async for event in self._kube.watch(self._url, version):
            obj = event["object"]
            version = obj["metadata"]["resourceVersion"]
            self._newest = max(self._newest, int(version))
            match event["type"]:
                case "ADDED" | "MODIFIED":
                    self._put(obj)
                case "DELETED":
                    self._drop(obj["metadata"]["name"], int(version))
        return version

    def _put(self, obj: Json) -> None:
        name, version = obj["metadata"]["name"], int(obj["metadata"]["resourceVersion"])
        # Up to the floor a newer list has already said which objects there are: an older event must not bring one back.
        if version <= self._versions.get(name, self._floor):
            return
        self._versions[name] = version
        self.objects[name] = obj
        self._changed(name)

    def _drop(self, name: str, version: int) -> None:
        if version <= self._versions.get(name, self._floor):
            return
        self._versions[name] = version  # a tombstone, until a newer list makes it needless
        if self.objects.pop(name, None) is not None:
            self._changed(name)

    def _settle(self, names: set[str], version: int) -> None:
        """A list of this version is complete: what it does not name and is not newer is gone."""
        if version < self._floor:
            return
        self._floor = version
        for name in [n for n, v in self._versions.items() if n not in names and v <= version]:
            del self._versions[name]
            if self.objects.pop(name, None) is not None:
                self._changed(name)
