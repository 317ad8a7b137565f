"""A plain HTTP port for those who operate keyshred: /metrics, /livez, /readyz. Nothing secret is to be had there."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from keyshred.errors import ConfigInvalid, KeyshredError

log = logging.getLogger(__name__)

Page = Callable[[], Awaitable[bytes]]
"""What to answer. Raises KeyshredError: 503 with its message."""
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def served(listen: str, port: int, pages: Mapping[str, Page]) -> AsyncIterator[None]:
    """Serves the pages, by path, for as long as the block runs; port 0: none. Raises ConfigInvalid."""
    if not port:
        yield
        return
    # No request of this port has a body.
    app = web.Application(client_max_size=1)
    for path, page in pages.items():
        app.router.add_get(path, _handler(page))
    runner = web.AppRunner(app, access_log=None, logger=logging.getLogger("keyshred.observe.http"))
    await runner.setup()
    try:
        await web.TCPSite(runner, listen, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigInvalid(f"cannot listen on {listen}:{port}: {error.strerror}") from error
    try:
        yield
    finally:
        await runner.cleanup()


def _handler(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = await page()
        except KeyshredError as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(body=body, headers={"Content-Type": _TYPE})

    return handle


async def ok() -> bytes:
    """For /livez: whoever can answer lives."""
    return b"ok\n"
