"""A proxy before the API server, for a network that misbehaves: plain HTTP on loopback, TLS beyond."""

import asyncio
import ssl
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

T = TypeVar("T")

_HOP = frozenset({"Host", "Connection", "Transfer-Encoding", "Content-Length", "Keep-Alive"})


@dataclass(slots=True)
class Asked:
    """One request that was let through, watches left out."""

    method: str
    path: str
    began: float
    """On the clock of `Proxy.now`."""


class Proxy:
    """Forwards to the API server, and can be told not to. Runs in a thread of its own."""

    def __init__(self, upstream: str, authority: Path) -> None:
        self._upstream = upstream
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refused: tuple[str, ...] = ()
        self.asked: list[Asked] = []
        self.withheld = 0
        """Pieces of watches that wait while watches are stalled."""
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.mend()
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @staticmethod
    def now() -> float:
        """The proxy's clock."""
        return time.monotonic()

    def stall_watches(self) -> None:
        """Watches stay connected, and nothing more comes through them."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def refuse(self, *resources: str) -> None:
        """Breaks off every request for these resources, watches that are connected left alone; "" means all."""
        self._refused = resources

    def mend(self) -> None:
        """Lets everything through, and what waited too."""
        self._refused = ()
        self._loop.call_soon_threadsafe(self._flowing.set)

    def lists_since(self, moment: float, resource: str) -> int:
        """How many lists of the resource began after `moment`."""
        return sum(a.began > moment and a.method == "GET" and a.path.endswith(f"/{resource}") for a in list(self.asked))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), auto_decompress=False
        )
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if any(request.path.endswith(resource) for resource in self._refused):
            assert request.transport is not None
            request.transport.abort()
        watching = request.query.get("watch") == "1"
        if not watching:
            self.asked.append(Asked(request.method, request.path, self.now()))
        async with self._session.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers={k: v for k, v in request.headers.items() if k not in _HOP},
            data=await request.read(),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            headers = {k: v for k, v in answer.headers.items() if k not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                if watching and not self._flowing.is_set():
                    self.withheld += 1
                    await self._flowing.wait()
                await response.write(piece)
            await response.write_eof()
            return response
