"""The port for those who operate keyshred."""

import aiohttp
import pytest

from keyshred.errors import ConfigInvalid, NotReady
from keyshred.observe.pages import ok, served
from tests.cluster import ports


async def _numbers() -> bytes:
    return b"keyshred_leader 1.0\n"


async def _not_ready() -> bytes:
    raise NotReady("not yet")


async def test_pages() -> None:
    port = ports.free()
    pages = {"/metrics": _numbers, "/livez": ok, "/readyz": _not_ready}
    async with served("127.0.0.1", port, pages), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        async with http.get("/metrics") as answer:
            assert (answer.status, await answer.text()) == (200, "keyshred_leader 1.0\n")
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        async with http.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "not yet\n")
        async with http.head("/livez") as answer:
            assert answer.status == 200
        async with http.post("/livez", data=b"x" * 100) as answer:
            assert answer.status == 405
        async with http.get("/debug") as answer:
            assert answer.status == 404
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(f"http://127.0.0.1:{port}/livez")


async def test_a_port_that_is_taken_is_named() -> None:
    port = ports.free()
    async with served("127.0.0.1", port, {}):
        with pytest.raises(ConfigInvalid, match=str(port)):
            async with served("127.0.0.1", port, {}):
                raise AssertionError("two serve one port")


async def test_no_port_is_no_server() -> None:
    async with served("127.0.0.1", 0, {}):
        pass
