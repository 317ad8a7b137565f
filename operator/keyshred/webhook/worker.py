"""One worker process: its own event loop, policy and token session, on a socket that all workers share."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import time

from aiohttp import web

from keyshred.config import WebhookSettings
from keyshred.hsm.service import HsmService
from keyshred.kube.client import Kube
from keyshred.kube.records import Records
from keyshred.observe.process import prepare, without_details
from keyshred.webhook.compare_limit import CompareLimit
from keyshred.webhook.guard import Guard
from keyshred.webhook.keys import Keys
from keyshred.webhook.secrets import SecretAdmission
from keyshred.webhook.server import Parts, application
from keyshred.webhook.snapshot import Snapshot
from keyshred.webhook.tls import server_context
from keyshred.webhook.tokens import Tokens
from keyshred.webhook.unseal import Unsealing

log = logging.getLogger(__name__)

_DRAIN = 12.0
"""Seconds for requests under way when the process is told to stop; admission itself times out after 10."""

_MAX_HEADER = 32 * 1024
"""Bytes; a ServiceAccount token is one to two thousand."""


def run(settings: WebhookSettings, listener: socket.socket) -> None:
    """Serves until SIGTERM, or until the parent is gone. Entry point of a spawned process."""
    prepare(settings.log_level)
    # The token's module is loaded below, after the spawn: one that was loaded before a fork is broken in the child.
    asyncio.run(_serve(settings, listener))


async def _serve(settings: WebhookSettings, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A parent that was killed cannot tell: its end shows at this descriptor.
        loop.add_reader(parent.sentinel, stop.set)
    kube = await Kube.connect(settings.kubeconfig)
    hsm = HsmService.of(settings)
    snapshot = Snapshot(
        kube, settings.namespace, max_age=settings.policy_max_age, confirm_every=settings.policy_confirm_every
    )
    keys = Keys(hsm)
    parts = Parts(
        snapshot=snapshot,
        hsm=hsm,
        secrets=SecretAdmission(snapshot, keys, CompareLimit(settings.compare_misses, time.monotonic)),
        guard=Guard(kube, snapshot, Records(kube)),
        unsealing=Unsealing(kube, snapshot, keys, Tokens(kube, settings.token_review_ttl)),
    )
    watching = asyncio.create_task(snapshot.run())
    watching.add_done_callback(lambda _: stop.set())
    runner = web.AppRunner(
        application(settings, parts),
        # Paths name tenants' Secrets, and the audit line says it better.
        access_log=None,
        # aiohttp logs the bytes that it could not parse: a bearer token, or a body.
        logger=without_details(logging.getLogger("keyshred.webhook.http")),
        max_field_size=_MAX_HEADER,
        shutdown_timeout=_DRAIN,
    )
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=server_context(settings)).start()
    log.info("worker serves on %s:%s", *listener.getsockname()[:2])
    await stop.wait()
    await runner.cleanup()
    if watching.done() and not watching.cancelled() and (error := watching.exception()):
        raise error
    watching.cancel()
    await hsm.close()
    await kube.close()
