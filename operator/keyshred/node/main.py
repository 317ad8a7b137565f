"""`keyshred node`: the CSI driver of one node. It has no right of its own: it asks with the tokens of pods."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Final

import grpc

from keyshred.config import NodeSettings
from keyshred.errors import ConfigInvalid, NotReady
from keyshred.node.holdings import Holdings
from keyshred.node.publishing import Publisher
from keyshred.node.services import Node, Registration
from keyshred.node.unsealing import Unsealing
from keyshred.observe import metrics
from keyshred.observe.pages import ok, served
from keyshred.observe.process import prepare
from keyshred.policy.volumes import DRIVER

log = logging.getLogger(__name__)

_DRAIN: Final = 10.0
"""Seconds for calls under way when the process is told to stop."""
_LOOK: Final = 5.0
"""Seconds between looks at whether the sockets are still there."""


def run(settings: NodeSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigInvalid where the kubelet's folders are not there."""
    prepare(settings.log_level, settings.log_format)
    asyncio.run(_run(settings))


async def _run(settings: NodeSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    kubelet = Path(settings.kubelet_dir)
    endpoint = kubelet / "plugins" / DRIVER / "csi.sock"
    door = kubelet / "plugins_registry" / f"{DRIVER}-reg.sock"
    unsealing, registration = Unsealing(settings.url, Path(settings.ca)), Registration(endpoint)
    holdings = Holdings(endpoint.parent / "volumes")
    holdings.sweep()
    publisher = Publisher(unsealing, kubelet, holdings)
    metrics.NODE_VOLUMES.set_function(lambda: publisher.published)

    async def numbers() -> bytes:
        return metrics.of_node()

    async def ready() -> bytes:
        if not registration.registered:
            raise NotReady(f"the kubelet has not registered {DRIVER} yet: {registration.problem or 'it was not asked'}")
        return b"ok\n"

    pages = {"/metrics": numbers, "/livez": ok, "/readyz": ready}
    async with served(settings.metrics_listen, settings.metrics_port, pages):
        driver = await _serve(endpoint, Node(publisher, settings.node_name).handlers())
        # Last: the kubelet calls the driver as soon as it sees this socket.
        entrance = await _serve(door, registration.handlers())
        await _until(stop, (endpoint, door))
        # The kubelet forgets the driver when this socket goes, and pods on their way wait for the next process.
        await entrance.stop(0)
        door.unlink(missing_ok=True)
        await driver.stop(_DRAIN)
        endpoint.unlink(missing_ok=True)
        await unsealing.close()


async def _serve(socket: Path, handlers: list[grpc.GenericRpcHandler]) -> "grpc.aio.Server":
    try:
        socket.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # One that an earlier process left: the kubelet looks only at sockets that are made anew.
        socket.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigInvalid(f"{socket.parent}: {error.strerror}: is --kubelet-dir the kubelet's?") from error
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers)
    try:
        if not server.add_insecure_port(f"unix:{socket}"):
            raise ConfigInvalid(f"cannot listen at {socket}")
    except RuntimeError as error:
        raise ConfigInvalid(f"cannot listen at {socket}") from error
    await server.start()
    return server


async def _until(stop: asyncio.Event, sockets: tuple[Path, ...]) -> None:
    """Returns when told to stop. Raises NotReady when a socket is gone: somebody cleaned the kubelet's folder."""
    while not stop.is_set():
        try:
            async with asyncio.timeout(_LOOK):
                await stop.wait()
        except TimeoutError:
            if not all(s.is_socket() for s in sockets):
                raise NotReady("the kubelet's folder was emptied: starting anew") from None
