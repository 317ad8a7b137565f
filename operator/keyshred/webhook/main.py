"""The webhook's parent process: opens the port, keeps the workers alive, passes on the signal to stop."""

import asyncio
import logging
import multiprocessing
import multiprocessing.connection
import signal
import socket
import tempfile
import time
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Final

from keyshred.config import WebhookSettings
from keyshred.errors import ConfigInvalid
from keyshred.hsm import uri
from keyshred.kube.client import Kube
from keyshred.observe.process import prepare
from keyshred.webhook import worker
from keyshred.webhook.tls import server_context

log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_CRASH_LOOP: Final = 1.0
"""Seconds before a worker that ended is started again, so that one that cannot start does not spin."""
_DRAIN: Final = 20.0
"""Seconds that a worker gets to end: its own drain, and a last call of the token."""


def run(settings: WebhookSettings) -> None:
    """Serves until SIGTERM. Raises ConfigInvalid or Malformed for settings that cannot work, before anything starts."""
    prepare(settings.log_level)
    with tempfile.TemporaryDirectory(prefix="keyshred-") as shared:
        # A PIN that one worker was refused is not tried by the others, nor by those started later.
        _run(replace(settings, refused_pin_file=settings.refused_pin_file or f"{shared}/refused-pin"))


def _run(settings: WebhookSettings) -> None:
    server_context(settings)
    uri.parse(settings.token_uri)
    asyncio.run(_check_credentials(settings))
    listener = _listen(settings)
    # Printed, for those who let the system choose the port.
    print(f"keyshred webhook listens on {listener.getsockname()[0]}:{listener.getsockname()[1]}", flush=True)
    _supervise(settings, listener)


async def _check_credentials(settings: WebhookSettings) -> None:
    await (await Kube.connect(settings.kubeconfig)).close()


def _listen(settings: WebhookSettings) -> socket.socket:
    try:
        return socket.create_server((settings.listen, settings.port), backlog=_BACKLOG)
    except OSError as error:
        raise ConfigInvalid(f"cannot listen on {settings.listen}:{settings.port}: {error.strerror}") from error


class _Stopped(Exception):
    pass


def _supervise(settings: WebhookSettings, listener: socket.socket) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped

    # Spawn, not fork: each worker loads the token's module itself, and inherits no lock in an odd state.
    spawn = multiprocessing.get_context("spawn")
    workers: list[SpawnProcess] = []
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        while True:
            while len(workers) < settings.workers:
                process = spawn.Process(target=worker.run, args=(settings, listener))
                process.start()
                workers.append(process)
            multiprocessing.connection.wait([w.sentinel for w in workers])
            for ended in [w for w in workers if not w.is_alive()]:
                log.error("worker %s ended with %s; starting another", ended.pid, ended.exitcode)
                workers.remove(ended)
            time.sleep(_CRASH_LOOP)
    except _Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        log.info("stopping")
    for process in workers:
        process.terminate()
    end = time.monotonic() + _DRAIN
    for process in workers:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            log.error("worker %s did not end in time", process.pid)
            process.kill()
