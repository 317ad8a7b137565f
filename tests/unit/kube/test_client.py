"""The client against a small server that speaks as an API server does."""

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from keyshred.errors import (
    ConfigInvalid,
    Conflict,
    KeyshredError,
    KubeUnavailable,
    NotFound,
    Refused,
    WatchExpired,
)
from keyshred.kube.client import METADATA_ONLY, Kube, own_path, path

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(handler: Handler, tmp_path: Path) -> AsyncIterator[Kube]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app)
    await server.start_server()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": str(server.make_url("")).rstrip("/")}}],
                "users": [{"name": "u", "user": {"token": "t0ken"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    kube = await Kube.connect(str(kubeconfig))
    try:
        yield kube
    finally:
        await kube.close()
        await server.close()


def answer(status: int, body: bytes) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    return handle


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (path("secrets", "s", namespace="ns"), "/api/v1/namespaces/ns/secrets/s"),
        (path("namespaces"), "/api/v1/namespaces"),
        (path("leases", "l", namespace="n", group="g.io", version="v1"), "/apis/g.io/v1/namespaces/n/leases/l"),
        (own_path("keyrecords", "k", "status"), "/apis/keyshred.dev/v1alpha1/keyrecords/k/status"),
        (path("secrets", "../x?y#z", namespace="a/b"), "/api/v1/namespaces/a%2Fb/secrets/..%2Fx%3Fy%23z"),
    ],
)
def test_paths(made: str, expected: str) -> None:
    assert made == expected


async def test_requests(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str, str, str | None, Any]] = []

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        headers = request.headers
        seen.append(
            (
                request.method,
                request.path_qs,
                headers["Authorization"],
                headers["Accept"],
                headers.get("Content-Type"),
                json.loads(body) if body else None,
            )
        )
        return web.json_response({"ok": True})

    async with served(handle, tmp_path) as kube:
        assert await kube.get("/a", accept=METADATA_ONLY, params={"limit": "5"}) == {"ok": True}
        await kube.create("/a", {"b": 1})
        await kube.replace("/a", {"b": 2})
        await kube.patch("/a", {"b": 3})
        await kube.delete("/a")
    auth, plain = "Bearer t0ken", "application/json"
    assert seen == [
        ("GET", "/a?limit=5", auth, METADATA_ONLY, None, None),
        ("POST", "/a", auth, plain, plain, {"b": 1}),
        ("PUT", "/a", auth, plain, plain, {"b": 2}),
        ("PATCH", "/a", auth, plain, "application/merge-patch+json", {"b": 3}),
        ("DELETE", "/a", auth, plain, None, None),
    ]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (409, Conflict),
        (410, WatchExpired),
        (422, Refused),
        (429, KubeUnavailable),
        (500, KubeUnavailable),
        (503, KubeUnavailable),
    ],
)
@pytest.mark.parametrize("body", [b'{"message": "because"}', b"<html>", b"[]", b""])
async def test_errors(tmp_path: Path, status: int, error: type[KeyshredError], body: bytes) -> None:
    async with served(answer(status, body), tmp_path) as kube:
        with pytest.raises(error) as caught:
            await kube.get("/a")
        assert type(caught.value) is error
        assert f"HTTP {status}" in str(caught.value)
        assert ("because" in str(caught.value)) is (b"because" in body)


async def test_errors_about_secrets_quote_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with served(answer(422, b'{"message": "data: hunter2"}'), tmp_path) as kube:
        with pytest.raises(Refused) as caught:
            await kube.patch(path("secrets", "s", namespace="ns"), {"data": {"a": "hunter2"}})
    assert "hunter2" not in str(caught.value) + caplog.text


@pytest.mark.parametrize("body", [b"<html>hunter2</html>", b'{"data": "hunter2', b""])
async def test_an_answer_that_is_no_json(tmp_path: Path, body: bytes) -> None:
    async with served(answer(200, body), tmp_path) as kube:
        with pytest.raises(KubeUnavailable) as caught:
            await kube.get("/a")
        assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


async def test_nobody_there(tmp_path: Path) -> None:
    async with served(answer(200, b"{}"), tmp_path) as kube:
        kube._api.configuration.host = "http://127.0.0.1:1"
        with pytest.raises(KubeUnavailable, match="ClientConnector"):
            await kube.get("/a")


async def test_pages(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        if "continue" not in request.query:
            return web.json_response({"items": [{"n": 1}, {"n": 2}], "metadata": {"continue": "c1"}})
        return web.json_response({"items": None, "metadata": {}})

    async with served(handle, tmp_path) as kube:
        assert [item async for item in kube.list_all("/a", selector="x=y")] == [{"n": 1}, {"n": 2}]
    assert asked == [
        {"limit": "500", "labelSelector": "x=y"},
        {"limit": "500", "labelSelector": "x=y", "continue": "c1"},
    ]


def watch_of(*lines: bytes) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        return response

    return handle


async def test_watch(tmp_path: Path) -> None:
    # Cut anywhere, and larger than aiohttp's line by default: a KeyRecord's event can be.
    large = b'{"type":"MODIFIED","object":{"x":"' + b"x" * 1_500_000 + b'"}}\n'
    async with served(watch_of(b'{"type":"ADDED",', b'"object":{"n":1}}\n', large), tmp_path) as kube:
        events = [e async for e in kube.watch("/a", "5")]
    assert events[0] == {"type": "ADDED", "object": {"n": 1}}
    assert len(events[1]["object"]["x"]) == 1_500_000


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"type":"ERROR","object":{"code":410}}\n', WatchExpired),
        (b'{"type":"ERROR","object":{"code":500,"reason":"Broken"}}\n', KubeUnavailable),
        (b'{"type":"ADD', KubeUnavailable),
    ],
)
async def test_a_watch_that_fails(tmp_path: Path, line: bytes, error: type[KeyshredError]) -> None:
    async with served(watch_of(line), tmp_path) as kube:
        with pytest.raises(error):
            async for _ in kube.watch("/a", "5"):
                pass


async def test_a_watch_of_what_is_not_there(tmp_path: Path) -> None:
    async with served(answer(404, b"{}"), tmp_path) as kube:
        with pytest.raises(NotFound):
            async for _ in kube.watch("/a", "5"):
                pass


async def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigInvalid, match="nothing-there"):
        await Kube.connect(str(tmp_path / "nothing-there"))
    with pytest.raises(ConfigInvalid, match="the pod's ServiceAccount"):
        await Kube.connect("")
