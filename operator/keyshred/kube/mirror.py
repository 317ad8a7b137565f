"""A collection of API objects kept small: each as what one function makes of it, by list and watch."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
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
_SLICE: Final = 0.01
"""Seconds of reading after which everything else of the process has a turn."""


class Turns:
    """Mirrors that share it read one at a time, a slice each.

    However much there is to read, and in however many namespaces, one slice is the most that a Lease's renewal waits
    for. One object is never cut: what reads them must be bounded itself.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self, items: Iterable[Json], one: Callable[[Json], None]) -> None:
        """Calls `one` for each item."""
        rest = iter(items)
        while True:
            async with self._lock:
                end = monotonic() + _SLICE
                for item in rest:
                    one(item)
                    if monotonic() >= end:
                        break
                else:
                    # Events come one by one, and many of them may be there already.
                    await asyncio.sleep(0)
                    return
                await asyncio.sleep(0)


@dataclass(slots=True)
class _Known(Generic[T]):
    """All that is known at one time: a list that breaks off has changed nothing of it."""

    made: dict[str, T] = field(default_factory=dict)
    essences: dict[str, bytes] = field(default_factory=dict)
    """What each was made of."""
    unread: set[str] = field(default_factory=set)

    def keep(self, name: str, before: "_Known[T]") -> None:
        """What was known before of one that has not changed."""
        self.made[name], self.essences[name] = before.made[name], before.essences[name]
        if name in before.unread:
            self.unread.add(name)

    def forget(self, name: str) -> None:
        """One that is gone."""
        self.made.pop(name, None)
        self.essences.pop(name, None)
        self.unread.discard(name)


class Mirror(Generic[T]):
    """What `read` made of each object, by name. `changed` is called when that became another one, and after a list.

    `table`: asks for Tables, and `read` gets a row: its cells, and the object's metadata under `object`.
    `optional`: the resource need not exist; while it does not, there are no objects of it.
    `essence`: what `read` goes by, in short; while it is the same, an object is not read again.
    `unreadable`: what stands for an object on which `read` failed, whatever the error; None: the object is left out.
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
        essence: Callable[[Json], bytes] | None = None,
        unreadable: Callable[[Json], T] | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._kube = kube
        self._url = url
        self._read = read
        self._changed = changed
        self._optional = optional
        self._accept = TABLE if table else "application/json"
        self._params = {"includeObject": "Metadata"} if table else {}
        self._essence = essence
        self._unreadable = unreadable
        self._turns = turns or Turns()
        self._known = _Known[T]()
        self.synced = False
        """False until the first list, which is consistent (a quorum read), and where reading is forbidden."""

    @property
    def objects(self) -> dict[str, T]:
        """By name."""
        return self._known.made

    @property
    def unread(self) -> set[str]:
        """Names of those that `read` failed on."""
        return self._known.unread

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
                    self._known, self.synced = _Known(), True
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
        found = _Known[T]()
        params = self._params | {"limit": _PAGE}
        while True:
            page = await self._kube.get(self._url, accept=self._accept, params=params)
            await self._turns.take(_items(page), partial(self._read_into, found))
            following = page["metadata"].get("continue")
            if not following:
                break
            params["continue"] = following
        self._known, self.synced = found, True
        self._changed()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        events = self._kube.watch(self._url, version, accept=self._accept, params=self._params)
        async for event in events:
            obj = event["object"]
            version = obj["metadata"]["resourceVersion"]
            match event["type"]:
                case "ADDED" | "MODIFIED":
                    await self._turns.take(_items(obj), self._put)
                case "DELETED":
                    await self._turns.take(_items(obj), self._drop)
        return version

    def _put(self, item: Json) -> None:
        name = _name(item)
        before = self.objects.get(name)
        self._read_into(self._known, item)
        if self.objects.get(name) != before:
            self._changed()

    def _drop(self, item: Json) -> None:
        self._known.forget(_name(item))
        self._changed()

    def _read_into(self, known: _Known[T], item: Json) -> None:
        """Of an object that cannot be read, too: else whoever may write one would keep all others from being known."""
        name, essence = _name(item), None
        try:
            essence = self._essence(item) if self._essence else None
            if essence is not None and self._known.essences.get(name) == essence:
                known.keep(name, self._known)
                return
            made = self._read(item)
        except Exception as error:
            if name not in self.unread:
                # Once: who writes such an object can do so often. The error's text stays out, which could quote it.
                log.error("%s/%s cannot be read: %s", self._url, name, type(error).__name__)
            known.forget(name)
            known.unread.add(name)
            if self._unreadable is None:
                return
            made = self._unreadable(item)
        else:
            known.unread.discard(name)
        known.made[name] = made
        if essence is not None:
            known.essences[name] = essence


def _name(item: Json) -> str:
    return str(item.get("object", item)["metadata"]["name"])


def _items(answer: Json) -> list[Json]:
    """Of a list, a Table, or a watch event's object, which is a Table of one row where Tables were asked for."""
    if "rows" in answer:
        return answer["rows"] or []
    return answer["items"] or [] if "items" in answer else [answer]
