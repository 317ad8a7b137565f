"""What the kubelet calls: registration, and Identity and Node of the Container Storage Interface."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from keyshred import __version__
from keyshred.errors import KeyGone, KeyshredError, Malformed, NotFound, Retry, Stop
from keyshred.node.proto import csi_pb2 as csi
from keyshred.node.proto import registration_pb2 as registration
from keyshred.node.publishing import Publisher, Request
from keyshred.observe import metrics
from keyshred.observe.process import where
from keyshred.policy.volumes import DRIVER

log = logging.getLogger(__name__)

_VERSIONS: Final = ("1.0.0",)
"""Of CSI, as the kubelet compares them."""

Method = Callable[[Any], Awaitable[Any]]


class Node:
    """Identity and Node of one node's plugin."""

    def __init__(self, publisher: Publisher, node_name: str) -> None:
        self._publisher = publisher
        self._node_name = node_name

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """For grpc.aio.Server.add_generic_rpc_handlers."""
        identity = {
            "GetPluginInfo": _unary(self._info, csi.GetPluginInfoRequest, csi.GetPluginInfoResponse),
            "GetPluginCapabilities": _unary(
                self._plugin, csi.GetPluginCapabilitiesRequest, csi.GetPluginCapabilitiesResponse
            ),
            "Probe": _unary(self._probe, csi.ProbeRequest, csi.ProbeResponse),
        }
        node = {
            "NodeGetInfo": _unary(self._node, csi.NodeGetInfoRequest, csi.NodeGetInfoResponse),
            "NodeGetCapabilities": _unary(
                self._capabilities, csi.NodeGetCapabilitiesRequest, csi.NodeGetCapabilitiesResponse
            ),
            "NodePublishVolume": _unary(self._publish, csi.NodePublishVolumeRequest, csi.NodePublishVolumeResponse),
            "NodeUnpublishVolume": _unary(
                self._unpublish, csi.NodeUnpublishVolumeRequest, csi.NodeUnpublishVolumeResponse
            ),
        }
        return [
            grpc.method_handlers_generic_handler("csi.v1.Identity", identity),
            grpc.method_handlers_generic_handler("csi.v1.Node", node),
        ]

    async def _info(self, _: csi.GetPluginInfoRequest) -> csi.GetPluginInfoResponse:
        return csi.GetPluginInfoResponse(name=DRIVER, vendor_version=__version__)

    async def _plugin(self, _: csi.GetPluginCapabilitiesRequest) -> csi.GetPluginCapabilitiesResponse:
        return csi.GetPluginCapabilitiesResponse()

    async def _probe(self, _: csi.ProbeRequest) -> csi.ProbeResponse:
        return csi.ProbeResponse()

    async def _node(self, _: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:
        return csi.NodeGetInfoResponse(node_id=self._node_name)

    async def _capabilities(self, _: csi.NodeGetCapabilitiesRequest) -> csi.NodeGetCapabilitiesResponse:
        group = csi.NodeServiceCapability.RPC(type=csi.NodeServiceCapability.RPC.VOLUME_MOUNT_GROUP)
        return csi.NodeGetCapabilitiesResponse(capabilities=[csi.NodeServiceCapability(rpc=group)])

    async def _publish(self, request: csi.NodePublishVolumeRequest) -> csi.NodePublishVolumeResponse:
        group = request.volume_capability.mount.volume_mount_group
        asked = Request(
            Path(request.target_path),
            dict(request.volume_context),
            dict(request.secrets),
            int(group) if group else None,
        )
        await self._publisher.publish(asked)
        return csi.NodePublishVolumeResponse()

    async def _unpublish(self, request: csi.NodeUnpublishVolumeRequest) -> csi.NodeUnpublishVolumeResponse:
        await self._publisher.unpublish(Path(request.target_path))
        return csi.NodeUnpublishVolumeResponse()


class Registration:
    """How the kubelet finds the driver."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self.registered = False
        """Whether the kubelet has said so last."""
        self.problem = ""

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """For grpc.aio.Server.add_generic_rpc_handlers."""
        methods = {
            "GetInfo": _unary(self._info, registration.InfoRequest, registration.PluginInfo),
            "NotifyRegistrationStatus": _unary(
                self._told, registration.RegistrationStatus, registration.RegistrationStatusResponse
            ),
        }
        return [grpc.method_handlers_generic_handler("pluginregistration.Registration", methods)]

    async def _info(self, _: registration.InfoRequest) -> registration.PluginInfo:
        return registration.PluginInfo(
            type="CSIPlugin", name=DRIVER, endpoint=str(self._endpoint), supported_versions=_VERSIONS
        )

    async def _told(self, status: registration.RegistrationStatus) -> registration.RegistrationStatusResponse:
        self.registered, self.problem = status.plugin_registered, status.error
        if self.registered:
            log.info("the kubelet has registered %s", DRIVER)
        else:
            log.error("the kubelet does not register %s: %s", DRIVER, status.error)
        return registration.RegistrationStatusResponse()


def _unary(method: Method, request: Any, response: Any) -> "grpc.RpcMethodHandler[Any, Any]":
    async def call(message: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        name = method.__name__.lstrip("_")
        try:
            answer = await method(message)
        except KeyshredError as error:
            metrics.node_call(name, metrics.outcome(error))
            # The kubelet puts it in an Event on the pod.
            await context.abort(_code(error), str(error))
        except asyncio.CancelledError:
            metrics.node_call(name, "cancelled")
            raise
        except Exception as error:
            metrics.node_call(name, metrics.outcome(error))
            # Its text could quote a value or a token.
            log.error("%s failed: %s", name, where(error))
            await context.abort(grpc.StatusCode.INTERNAL, f"keyshred failed ({type(error).__name__}): see its log")
        metrics.node_call(name, "ok")
        return answer

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )


def _code(error: KeyshredError) -> grpc.StatusCode:
    match error:
        case Retry():
            return grpc.StatusCode.UNAVAILABLE
        case Malformed():
            return grpc.StatusCode.INVALID_ARGUMENT
        case NotFound():
            return grpc.StatusCode.NOT_FOUND
        case KeyGone():
            return grpc.StatusCode.FAILED_PRECONDITION
        case Stop():
            return grpc.StatusCode.INTERNAL
        case _:
            return grpc.StatusCode.PERMISSION_DENIED
