"""One worker process: its own event loop, policy and token session, on a socket that all workers share."""

import asyncio
import gc
import logging
import multiprocessing
import signal
import socket
import time
from typing import Any, Final, cast

from aiohttp import web

from keyshred.config import WebhookSettings
from keyshred.hsm.service import HsmService
from keyshred.kube.client import Kube
from keyshred.kube.records import Records
from keyshred.observe import audit, metrics
from keyshred.observe.process import prepare, without_details
from keyshred.policy import durations
from keyshred.policy.guards import Floors
from keyshred.webhook.board import Board
from keyshred.webhook.compare_limit import CompareLimit
from keyshred.webhook.guard import Guard
from keyshred.webhook.key_states import KeyStates
from keyshred.webhook.keys import Keys
from keyshred.webhook.namespaces import NamespaceAdmission
from keyshred.webhook.pods import PodAdmission
from keyshred.webhook.readiness import Readiness
from keyshred.webhook.secrets import SecretAdmission
from keyshred.webhook.server import Parts, application
from keyshred.webhook.snapshot import Snapshot
from keyshred.webhook.tls import Port, check_expiry, expiry
from keyshred.webhook.tokens import Tokens
from keyshred.webhook.unseal import Unsealing
from keyshred.webhook.wraps import Wraps

log = logging.getLogger(__name__)

_DRAIN: Final = 12.0
"""Seconds for requests under way when the process is told to stop; admission itself times out after 10."""
_SAMPLE: Final = 1.0
"""Seconds between looks at what a gauge shows."""
_LINGER: Final = 0.5
"""Seconds in which connections that came at the last moment may still send their request."""
_MAX_HEADER: Final = 32 * 1024
"""Bytes; a ServiceAccount token is one to two thousand."""


def run(settings: WebhookSettings, listener: socket.socket, board: Board, number: int) -> None:
    """Serves until SIGTERM, or until the parent is gone. Entry point of a spawned process: worker `number`."""
    prepare(settings.log_level, settings.log_format)
    # The token's module is loaded below, after the spawn: one that was loaded before a fork is broken in the child.
    asyncio.run(_serve(settings, listener, board, number))


async def _serve(settings: WebhookSettings, listener: socket.socket, board: Board, number: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A parent that was killed cannot tell: its end shows at this descriptor.
        loop.add_reader(parent.sentinel, stop.set)
    kube = await Kube.connect(settings.kubeconfig)
    hsm = HsmService.of(settings)
    hsm.observer = metrics.hsm_called
    snapshot = Snapshot(
        kube, settings.namespace, max_age=settings.policy_max_age, confirm_every=settings.policy_confirm_every
    )
    keys, tokens = Keys(hsm, Wraps(kube)), Tokens(kube, settings.token_review_ttl)

    async def trial() -> None:
        check_expiry(settings)
        await snapshot.confirm()
        snapshot.current()
        await hsm.ready()

    readiness = Readiness(board, number, trial, patience=settings.policy_max_age + settings.hsm_deadline + 1)
    parts = Parts(
        readiness=readiness,
        secrets=SecretAdmission(snapshot, keys, CompareLimit(settings.compare_misses, time.monotonic)),
        guard=Guard(
            kube,
            snapshot,
            Records(kube, audit.key_change),
            Floors(durations.parse(settings.least_grace_period), settings.require_protected),
        ),
        namespaces=NamespaceAdmission(snapshot),
        pods=PodAdmission(kube, snapshot, settings.pod_image, settings.pod_image_pull_policy),
        unsealing=Unsealing(kube, snapshot, keys, tokens),
        key_states=KeyStates(snapshot, tokens),
    )
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
    port = Port(cast(web.Server, runner.server), listener, settings)
    log.info("worker serves on %s:%s", *listener.getsockname()[:2])
    # What was loaded so far stays: a full collection that walks it would make requests wait for tens of milliseconds.
    gc.collect()
    gc.freeze()
    accepting = asyncio.create_task(port.run())
    refusals, numbers = parts.unsealing.refusals, _numbers(settings, snapshot, readiness, hsm)
    works = (snapshot.run(), readiness.run(), hsm.until_hopeless(), refusals.run(), numbers, stop.wait())
    others = [asyncio.create_task(work) for work in works]
    done, _ = await asyncio.wait([accepting, *others], return_when=asyncio.FIRST_COMPLETED)
    if parent is not None:
        loop.remove_reader(parent.sentinel)  # readable for ever, once the parent is gone
    readiness.stop()
    await asyncio.sleep(_LINGER)
    await _cancelled(accepting)
    await port.close()
    await runner.cleanup()
    await _cancelled(*others)
    await hsm.close()
    await kube.close()
    for task in done:
        task.result()


async def _numbers(settings: WebhookSettings, snapshot: Snapshot, readiness: Readiness, hsm: HsmService) -> None:
    """Gauges of this worker, once a second."""
    metrics.WORKERS.set(1)
    while True:
        metrics.POLICY_AGE.set(snapshot.age)
        metrics.READY.set(readiness.good)
        metrics.HSM_QUEUE.set(hsm.depth)
        metrics.CERTIFICATE_EXPIRY.set(expiry(settings))
        await asyncio.sleep(_SAMPLE)


async def _cancelled(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
