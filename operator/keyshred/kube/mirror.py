"""A collection of API objects kept small: each as what one function makes of it, by list and watch."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from keyshred.errors import KeyshredError, NotFound, Refused, WatchExpired
from keyshred.kube.client import TABLE, Json, Kube

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY: Final = 1.0
"""Seconds between attempts to list and watch anew."""
_LOOK_FOR: Final = 60.0
"""Seconds between looks for a resource that need not exist."""
_PAGE: Final = "500"
"""Objects a request: a page is the most that is ever held whole."""


class Mirror(Generic[T]):
    """What `read` made of each object, by name. `changed` is called when that became another one, and after a list.

    `table`: asks for Tables, and `read` gets a row: its cells, and the object's metadata under `object`.
    `optional`: the resource need not exist; while it does not, there are no objects of it.
    """

    def __init__(
        self,
        kube: Kube,
        url: str,
        read: Callable[[Json], T],
        changed: Callable[[], None],
        *,
        table: bool = False,
        optional: bool = False,
    ) -> None:
        self._kube = kube
        self._url = url
        self._read = read
        self._changed = changed
        self._optional = optional
        self._accept = TABLE if table else "application/json"
        self._params = {"includeObject": "Metadata"} if table else {}
        self.objects: dict[str, T] = {}
        self.synced = False
        """False until the first list, which is consistent (a quorum read), and where reading is forbidden."""

    async def run(self) -> None:
        """Lists and watches until cancelled."""
        while True:
            try:
                version = await self._list()
                while True:
                    version = await self._watch(version)
            except WatchExpired:
                pass
            except (Refused, NotFound) as error:
                if self._optional and isinstance(error, NotFound):
                    self.objects, self.synced = {}, True
                    self._changed()
                    await asyncio.sleep(_LOOK_FOR)
                    continue
                self.synced = False
                log.warning("%s; listing anew", error)
            except KeyshredError as error:
                log.warning("%s; listing anew", error)
            except Exception as error:
                # Its text stays out of the log: it could quote the object.
                log.error("%s: %s; listing anew", self._url, type(error).__name__)
            await asyncio.sleep(_RETRY)

    async def _list(self) -> str:
        found: dict[str, T] = {}
        params = self._params | {"limit": _PAGE}
        while True:
            page = await self._kube.get(self._url, accept=self._accept, params=params)
            found.update(self._named(item) for item in _items(page))
            following = page["metadata"].get("continue")
            if not following:
                break
            params["continue"] = following
        self.objects, self.synced = found, True
        self._changed()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        events = self._kube.watch(self._url, version, accept=self._accept, params=self._params)
        async for event in events:
            obj = event["object"]
            version = obj["metadata"]["resourceVersion"]
            if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                for item in _items(obj):
                    self._take(event["type"], *self._named(item))
        return version

    def _take(self, kind: str, name: str, new: T) -> None:
        if kind == "DELETED":
            self.objects.pop(name, None)
        elif self.objects.get(name) == new:
            return
        else:
            self.objects[name] = new
        self._changed()

    def _named(self, item: Json) -> tuple[str, T]:
        return item.get("object", item)["metadata"]["name"], self._read(item)


def _items(answer: Json) -> list[Json]:
    """Of a list, a Table, or a watch event's object, which is a Table of one row where Tables were asked for."""
    if "rows" in answer:
        return answer["rows"] or []
    return answer["items"] or [] if "items" in answer else [answer]
