"""The webhook's parent process: opens the port, keeps the workers alive, passes on the signal to stop."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

from keyshred.config import WebhookSettings
from keyshred.errors import ConfigInvalid
from keyshred.hsm import uri
from keyshred.kube.client import Kube
from keyshred.observe import metrics
from keyshred.observe.pages import ok, served
from keyshred.observe.process import prepare
from keyshred.policy import durations
from keyshred.webhook import worker
from keyshred.webhook.board import Board, now
from keyshred.webhook.serving import ServingSecret
from keyshred.webhook.tls import server_context

log = logging.getLogger(__name__)

_COUNTED: Final = "PROMETHEUS_MULTIPROC_DIR"
_BACKLOG: Final = 1024
"""Connections that wait to be accepted."""
_LOOK: Final = 1.0
"""Seconds between looks at a worker's heartbeat."""
_HANGS: Final = 10
"""Looks without a beat after which a worker is replaced; an API server waits 10 s for a webhook. Looks and not seconds:
where the whole machine stood still, the workers get their time all the same."""
_STARTS: Final = 60
"""The same before the first beat."""
_SETTLED: Final = 60.0
"""Seconds after which a worker that ends was no bad start."""
_LONGEST_PAUSE: Final = 30.0
"""Seconds between starts, at most, of a worker that keeps ending; the first pause is one."""
_STOP: Final = 20.0
"""Seconds that a worker gets to end: its own drain, and a last call of the token."""


def run(settings: WebhookSettings) -> None:
    """Serves until SIGTERM. Raises ConfigInvalid or Malformed for settings that cannot work, before anything starts."""
    prepare(settings.log_level, settings.log_format)
    with tempfile.TemporaryDirectory(prefix="keyshred-") as shared:
        # A PIN that one worker was refused is not tried by the others, nor by those started later.
        settings = replace(settings, refused_pin_file=settings.refused_pin_file or f"{shared}/refused-pin")
        # Of the workers, which are started from here: before any of them loads the metrics.
        os.environ[_COUNTED] = os.path.join(shared, "metrics")
        os.mkdir(os.environ[_COUNTED])
        asyncio.run(_run(settings, Path(shared)))


async def _run(settings: WebhookSettings, shared: Path) -> None:
    async with AsyncExitStack() as stack:
        serving = None
        if settings.tls_secret:
            kube = await Kube.connect(settings.kubeconfig)
            stack.push_async_callback(kube.close)
            serving = ServingSecret(kube, settings.namespace, settings.tls_secret, shared)
            await serving.wait()
            settings = replace(settings, tls_cert=str(serving.file), tls_key=str(serving.file))
        await _serve(settings, serving)


async def _numbers() -> bytes:
    return metrics.of_workers(os.environ[_COUNTED])


async def _serve(settings: WebhookSettings, serving: ServingSecret | None) -> None:
    server_context(settings)
    uri.parse(settings.token_uri)
    durations.parse(settings.least_grace_period)
    await (await Kube.connect(settings.kubeconfig)).close()
    listener = _listen(settings)
    # Printed, for those who let the system choose the port.
    print(f"keyshred webhook listens on {listener.getsockname()[0]}:{listener.getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        # Told twice, it stops no faster: requests that are under way are worth the seconds.
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    board, end = Board(settings.workers), asyncio.Event()
    pages = {"/metrics": _numbers, "/livez": ok}
    async with served(settings.metrics_listen, settings.metrics_port, pages), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(serving.follow()) if serving else None
        for number in range(settings.workers):
            tasks.create_task(_keep(settings, listener, board, number, end))
        await stop.wait()
        log.info("stopping: not ready from now on, serving for %s s more", settings.drain_delay)
        board.drain()
        await asyncio.sleep(settings.drain_delay)
        listener.close()
        end.set()
        if following is not None:
            following.cancel()


def _listen(settings: WebhookSettings) -> socket.socket:
    try:
        return socket.create_server((settings.listen, settings.port), backlog=_BACKLOG)
    except OSError as error:
        raise ConfigInvalid(f"cannot listen on {settings.listen}:{settings.port}: {error.strerror}") from error


async def _keep(
    settings: WebhookSettings, listener: socket.socket, board: Board, number: int, end: asyncio.Event
) -> None:
    """One worker after the other, until `end`."""
    # Spawn, not fork: each worker loads the token's module itself, and inherits no lock in an odd state.
    spawn = multiprocessing.get_context("spawn")
    pause = 1.0
    while not end.is_set():
        began = now()
        process = spawn.Process(target=worker.run, args=(settings, listener, board, number), daemon=True)
        process.start()
        await _until_it_ends(process, board, number, end)
        board.clear(number)
        metrics.worker_ended(process.pid or 0, os.environ[_COUNTED])
        if end.is_set():
            return
        if now() - began > _SETTLED:
            pause = 1.0
        log.error("worker %s ended with %s; starting another in %.0f s", process.pid, process.exitcode, pause)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _until_it_ends(process: SpawnProcess, board: Board, number: int, end: asyncio.Event) -> None:
    """Returns when the process is gone. One that hangs is killed; one that is told to end has its time."""
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, gone.set)
    try:
        first = seen = board.beats(number)
        silent = 0
        while not end.is_set() and not gone.is_set():
            await _first(gone, end, seconds=_LOOK)
            beats = board.beats(number)
            seen, silent = beats, (silent + 1 if beats == seen else 0)
            if silent == (_STARTS if beats == first else _HANGS):
                log.error("worker %s hangs", process.pid)
                process.kill()
        if not gone.is_set():
            process.terminate()
            await _first(gone, seconds=_STOP)
        if not gone.is_set():
            log.error("worker %s did not end in time", process.pid)
            process.kill()
            await gone.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()


async def _first(*events: asyncio.Event, seconds: float) -> None:
    """Returns when one of them is set, or the time is over."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
