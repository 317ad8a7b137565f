"""The unseal call as the driver makes it, against a server with TLS."""

import base64
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from keyshred.errors import CannotOpen, KeyGone, KeyNotUsable, KeyshredError, NotAuthenticated, NotFound, NotReady
from keyshred.node import unsealing
from keyshred.node.unsealing import Unsealing
from tests.cluster.pki import Authority


class Server:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.cleared: list[str | None] = []

    async def handle(self, request: web.Request) -> web.Response:
        headers = request.headers
        self.asked.append((request.path, headers.get("Authorization", ""), headers.get("If-None-Match", "")))
        self.cleared.append(headers.get("Keyshred-Cleared"))
        status, sent, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, headers=sent, body=body)


def values(**data: bytes) -> bytes:
    return json.dumps({"data": {k: base64.b64encode(v).decode() for k, v in data.items()}}).encode()


def problem(detail: str) -> bytes:
    return json.dumps({"title": "Refused", "detail": detail}).encode()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Unsealing]:
    monkeypatch.setattr(unsealing, "_PAUSE", 0)
    authority = Authority(tmp_path)
    pair = authority.issue("server", "server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    made = Unsealing(f"https://127.0.0.1:{port}/", authority.certificate)
    yield made
    await made.close()
    await runner.cleanup()


async def test_values_and_then_unchanged(client: Unsealing, server: Server) -> None:
    server.answers = [(200, {"ETag": '"1"'}, values(a=b"\0one")), (304, {"ETag": '"1"'}, b"")]
    opened = await client.unseal("ns", "app", "the-token")
    assert (opened.etag, opened.values) == ('"1"', {"a": b"\0one"})
    assert b"one" not in repr(opened).encode()
    again = await client.unseal("ns", "app", "the-token", opened.etag)
    assert (again.etag, again.values) == ('"1"', None)
    path = "/v1/namespaces/ns/secrets/app/unseal"
    assert server.asked == [(path, "Bearer the-token", ""), (path, "Bearer the-token", '"1"')]


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, NotAuthenticated), (403, KeyNotUsable), (404, NotFound), (410, KeyGone), (422, CannotOpen)],
)
async def test_refusals_are_not_asked_twice(
    client: Unsealing, server: Server, status: int, error: type[KeyshredError]
) -> None:
    server.answers = [(status, {}, problem("the reason"))]
    with pytest.raises(error) as raised:
        await client.unseal("ns", "app", "t")
    assert error is CannotOpen or str(raised.value) == "Secret app in namespace ns: the reason"
    assert len(server.asked) == 1


async def test_what_was_cleared_is_said_with_the_call(client: Unsealing, server: Server) -> None:
    server.answers = [(503, {}, problem("busy")), (410, {}, problem("destroyed"))]
    with pytest.raises(KeyGone):
        await client.unseal("ns", "app", "t", cleared="config")
    with pytest.raises(KeyGone):
        await client.unseal("ns", "app", "t")
    assert server.cleared == ["config", "config", None]


async def test_the_key_that_values_are_sealed_under(client: Unsealing, server: Server) -> None:
    headers = {"ETag": '"1"', "Keyshred-Key-ID": "key-1"}
    server.answers = [(200, headers, values(a=b"one")), (304, headers, b""), (200, {}, values(a=b"one"))]
    assert [(await client.unseal("ns", "app", "t")).key_id for _ in range(3)] == ["key-1", "key-1", ""]


async def test_whether_a_key_is_destroyed(client: Unsealing, server: Server) -> None:
    server.answers = [(204, {}, b""), (503, {}, problem("busy")), (410, {}, problem("destroyed")), (401, {}, b"")]
    assert not await client.is_destroyed("key-1", "the-token")
    assert await client.is_destroyed("key-1", "the-token")
    with pytest.raises(NotAuthenticated):
        await client.is_destroyed("key-1", "the-token")
    assert set(server.asked) == {("/v1/keys/key-1", "Bearer the-token", "")}


async def test_what_passes_is_tried_again(client: Unsealing, server: Server) -> None:
    server.answers = [(503, {}, problem("busy")), (502, {}, b"<html>"), (200, {"ETag": '"1"'}, values(a=b"one"))]
    assert (await client.unseal("ns", "app", "t")).values == {"a": b"one"}
    server.asked.clear()
    server.answers = [(503, {}, problem("busy"))]
    with pytest.raises(NotReady, match=r"busy \(HTTP 503\)"):
        await client.unseal("ns", "app", "t")
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"data": 1}', b'{"data": {"a": "no base64"}}', b'{"data": {"a": 1}}', b" " * 5_000_000]
)
async def test_answers_that_make_no_sense(client: Unsealing, server: Server, body: bytes) -> None:
    server.answers = [(200, {}, body)]
    with pytest.raises(NotReady) as raised:
        await client.unseal("ns", "app", "t")
    assert "no base64" not in str(raised.value)


async def test_a_redirect_does_not_take_the_token_elsewhere(client: Unsealing, server: Server) -> None:
    server.answers = [(307, {"Location": "https://127.0.0.1:1/"}, b"")]
    with pytest.raises(NotReady, match="HTTP 307"):
        await client.unseal("ns", "app", "t")


async def test_a_certificate_of_somebody_else(client: Unsealing, server: Server, tmp_path: Path) -> None:
    server.answers = [(200, {}, values(a=b"one"))]
    folder = tmp_path / "other"
    folder.mkdir()
    client._ca = Authority(folder).certificate
    with pytest.raises(NotReady, match="does not answer"):
        await client.unseal("ns", "app", "t")
    assert server.asked == []


async def test_the_ca_file_is_read_anew(client: Unsealing, server: Server, tmp_path: Path) -> None:
    server.answers = [(200, {"ETag": '"1"'}, values(a=b"one"))]
    good, client._ca = client._ca, tmp_path / "late.crt"
    with pytest.raises(NotReady, match="cannot be read yet"):
        await client.unseal("ns", "app", "t")
    client._ca.write_bytes(good.read_bytes())
    assert (await client.unseal("ns", "app", "t")).values == {"a": b"one"}
