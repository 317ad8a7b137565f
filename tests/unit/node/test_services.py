"""The calls of the kubelet, over a real socket."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyshred import __version__
from keyshred.config import NodeSettings, read
from keyshred.errors import (
    ConfigInvalid,
    KeyGone,
    KeyNotUsable,
    KeyshredError,
    Malformed,
    NotFound,
    NotReady,
    TokenBroken,
)
from keyshred.node.main import _serve, _until
from keyshred.node.proto import csi_pb2 as csi
from keyshred.node.proto import registration_pb2 as registration
from keyshred.node.publishing import Publisher, Request
from keyshred.node.services import Node, Registration
from keyshred.observe import metrics


class Recorded(Publisher):
    """Publishes nothing, and raises what it is told to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.gone: list[Path] = []
        self.error: Exception | None = None

    async def publish(self, request: Request) -> None:
        self.requests.append(request)
        if self.error is not None:
            raise self.error

    async def unpublish(self, target: Path) -> None:
        self.gone.append(target)


class Kubelet:
    """What it calls."""

    def __init__(self, socket: Path) -> None:
        self.channel = grpc.aio.insecure_channel(f"unix:{socket}")

    async def call(self, method: str, message: Any, answer: type[Any]) -> Any:
        ask = self.channel.unary_unary(method, type(message).SerializeToString, answer.FromString)
        return await ask(message, timeout=5)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
async def kubelet(tmp_path: Path, recorded: Recorded) -> AsyncIterator[Kubelet]:
    socket = tmp_path / "csi.sock"
    server = await _serve(socket, Node(recorded, "node-7").handlers())
    made = Kubelet(socket)
    yield made
    await made.channel.close()
    await server.stop(0)


async def test_what_the_driver_says_of_itself(kubelet: Kubelet) -> None:
    info = await kubelet.call("/csi.v1.Identity/GetPluginInfo", csi.GetPluginInfoRequest(), csi.GetPluginInfoResponse)
    assert (info.name, info.vendor_version) == ("csi.keyshred.dev", __version__)
    node = await kubelet.call("/csi.v1.Node/NodeGetInfo", csi.NodeGetInfoRequest(), csi.NodeGetInfoResponse)
    assert node.node_id == "node-7"
    asked = csi.NodeGetCapabilitiesRequest()
    can = await kubelet.call("/csi.v1.Node/NodeGetCapabilities", asked, csi.NodeGetCapabilitiesResponse)
    assert [c.rpc.type for c in can.capabilities] == [csi.NodeServiceCapability.RPC.VOLUME_MOUNT_GROUP]
    await kubelet.call("/csi.v1.Identity/Probe", csi.ProbeRequest(), csi.ProbeResponse)
    none = csi.GetPluginCapabilitiesResponse
    await kubelet.call("/csi.v1.Identity/GetPluginCapabilities", csi.GetPluginCapabilitiesRequest(), none)


async def test_what_it_is_asked(kubelet: Kubelet, recorded: Recorded) -> None:
    mount = csi.VolumeCapability(mount=csi.VolumeCapability.MountVolume(volume_mount_group="2000"))
    asked = csi.NodePublishVolumeRequest(
        target_path="/pods/u/mount", volume_capability=mount, secrets={"s": "t"}, volume_context={"a": "b"}
    )
    await kubelet.call("/csi.v1.Node/NodePublishVolume", asked, csi.NodePublishVolumeResponse)
    assert recorded.requests == [Request(Path("/pods/u/mount"), {"a": "b"}, {"s": "t"}, 2000)]
    bare = csi.NodePublishVolumeRequest(target_path="/x")
    await kubelet.call("/csi.v1.Node/NodePublishVolume", bare, csi.NodePublishVolumeResponse)
    assert recorded.requests[1].group is None
    gone = csi.NodeUnpublishVolumeRequest(target_path="/x")
    await kubelet.call("/csi.v1.Node/NodeUnpublishVolume", gone, csi.NodeUnpublishVolumeResponse)
    assert recorded.gone == [Path("/x")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotReady("away"), grpc.StatusCode.UNAVAILABLE),
        (Malformed("bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("Secret a does not exist"), grpc.StatusCode.NOT_FOUND),
        (KeyGone("destroyed"), grpc.StatusCode.FAILED_PRECONDITION),
        (KeyNotUsable("is Suspended"), grpc.StatusCode.PERMISSION_DENIED),
        (TokenBroken("broken"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_errors_as_the_kubelet_writes_them_into_an_event(
    kubelet: Kubelet, recorded: Recorded, error: KeyshredError, code: grpc.StatusCode
) -> None:
    recorded.error = error
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await kubelet.call(
            "/csi.v1.Node/NodePublishVolume", csi.NodePublishVolumeRequest(), csi.NodePublishVolumeResponse
        )
    assert (raised.value.code(), raised.value.details()) == (code, str(error))


async def test_what_nobody_thought_of_quotes_nothing(
    kubelet: Kubelet, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.error = ValueError("a-value-of-a-secret")
    with caplog.at_level(logging.INFO), pytest.raises(grpc.aio.AioRpcError) as raised:
        await kubelet.call(
            "/csi.v1.Node/NodePublishVolume", csi.NodePublishVolumeRequest(), csi.NodePublishVolumeResponse
        )
    assert raised.value.code() is grpc.StatusCode.INTERNAL and "ValueError" in str(raised.value.details())
    assert "a-value" not in f"{raised.value}{caplog.text}" and "publish failed" in caplog.text


async def test_registration(tmp_path: Path) -> None:
    registering = Registration(tmp_path / "csi.sock")
    server = await _serve(tmp_path / "reg.sock", registering.handlers())
    kubelet = Kubelet(tmp_path / "reg.sock")
    prefix = "/pluginregistration.Registration"
    info = await kubelet.call(f"{prefix}/GetInfo", registration.InfoRequest(), registration.PluginInfo)
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "csi.keyshred.dev", str(tmp_path / "csi.sock"))
    assert list(info.supported_versions) == ["1.0.0"] and not registering.registered
    for told in (
        registration.RegistrationStatus(error="why not"),
        registration.RegistrationStatus(plugin_registered=True),
    ):
        await kubelet.call(f"{prefix}/NotifyRegistrationStatus", told, registration.RegistrationStatusResponse)
        assert (registering.registered, registering.problem) == (told.plugin_registered, told.error)
    await kubelet.channel.close()
    await server.stop(0)


async def test_a_socket_that_was_left_is_made_anew(tmp_path: Path) -> None:
    socket = tmp_path / "plugins" / "csi.sock"
    socket.parent.mkdir()
    socket.touch()
    server = await _serve(socket, [])
    assert socket.is_socket()
    stop = asyncio.Event()
    stop.set()
    await _until(stop, (socket,))
    await server.stop(0)


async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "plugins").touch()
    with pytest.raises(ConfigInvalid, match="is --kubelet-dir the kubelet's"):
        await _serve(tmp_path / "plugins" / "csi.sock", [])


@pytest.mark.parametrize(
    ("changes", "words"), [({"node_name": ""}, "--node-name"), ({"kubelet_dir": "var/lib"}, "--kubelet-dir var/lib")]
)
def test_settings(changes: dict[str, str], words: str) -> None:
    good = {"url": "https://a", "ca": "/ca", "node_name": "n"}
    assert read(NodeSettings, good, {}).kubelet_dir == "/var/lib/kubelet"
    with pytest.raises(ConfigInvalid, match=words):
        read(NodeSettings, good | changes, {})


async def test_a_call_that_the_kubelet_gives_up_is_counted(kubelet: Kubelet, recorded: Recorded) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def never(request: Request) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    recorded.publish = never  # type: ignore[method-assign]
    counted = partial(
        metrics.PROCESS.get_sample_value, "keyshred_node_calls_total", {"call": "publish", "outcome": "cancelled"}
    )
    before = counted() or 0
    asked = csi.NodePublishVolumeRequest(target_path="/p")
    call = asyncio.create_task(kubelet.call("/csi.v1.Node/NodePublishVolume", asked, csi.NodePublishVolumeResponse))
    await started.wait()
    call.cancel()
    await ended.wait()
    assert counted() == before + 1
