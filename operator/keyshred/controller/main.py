"""`keyshred controller`: one active process that keeps keys, records and namespace labels."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final

from keyshred.config import SLOW_CALLS, ControllerSettings
from keyshred.controller.certificates import NONE, Certificates
from keyshred.controller.inventory import Inventory
from keyshred.controller.lease import Lease
from keyshred.controller.parts import BY, Job, Parts
from keyshred.controller.queue import WorkQueue
from keyshred.controller.token_record import TokenRecord
from keyshred.controller.watch import Watch
from keyshred.controller.work import Work
from keyshred.errors import NotReady
from keyshred.hsm.service import HsmService
from keyshred.kube.client import Json, Kube
from keyshred.kube.events import Events
from keyshred.kube.records import Records
from keyshred.names import CONTROLLER_LEASE
from keyshred.observe import audit, metrics
from keyshred.observe.pages import ok, served
from keyshred.observe.process import prepare

log = logging.getLogger(__name__)

_PATIENCE: Final = 1.0
"""Seconds for what is told to end, until it is told again."""


def run(settings: ControllerSettings) -> None:
    """Runs until SIGTERM or SIGINT. Raises Conflict where the Lease is lost: the process then has to end."""
    prepare(settings.log_level, settings.log_format)
    asyncio.run(_run(settings))


async def _run(settings: ControllerSettings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        kube = await Kube.connect(settings.kubeconfig)
        stack.push_async_callback(kube.close)
        lease = Lease(
            kube,
            settings.namespace,
            CONTROLLER_LEASE,
            duration=settings.lease_duration,
            # A step in the HSM ends before anybody else may take the Lease.
            margin=settings.hsm_deadline * SLOW_CALLS,
            clock=loop.time,
        )
        stack.push_async_callback(lease.release)
        inventory, certificates = Inventory(), Certificates(kube, settings)
        inventory.expiry = lambda: certificates.expiry
        await stack.enter_async_context(_pages(settings, lease, inventory, certificates))
        await _first(stop.wait(), lease.acquire())
        if stop.is_set():
            return
        metrics.LEADER.set(1)
        keeping = asyncio.create_task(certificates.run())
        stack.callback(keeping.cancel)
        token_record = TokenRecord(kube, settings)
        settings = await token_record.hold()
        hsm = HsmService.of(settings)
        hsm.observer = metrics.hsm_called
        metrics.HSM_QUEUE.set_function(lambda: hsm.depth)
        # Before the Lease is given back: what the token is at ends while nobody else may begin.
        stack.push_async_callback(hsm.close)
        work: Work

        async def handle(job: Job) -> None:
            await work.handle(job)

        queue = WorkQueue[Job](handle)
        watch = Watch(kube, queue.add, settings.kubeconfig)

        def written(record: Json) -> None:
            audit.key_change(record)
            inventory.record(record)

        records, events = Records(kube, written), Events(kube, BY)
        work = Work(Parts(settings, kube, hsm, records, events, lease, token_record, queue.add, inventory), watch)
        await _first(stop.wait(), lease.keep(), hsm.until_hopeless(), queue.run(), work.run(), watch.run())
        log.info("stopping")


def _pages(
    settings: ControllerSettings, lease: Lease, inventory: Inventory, certificates: Certificates
) -> AbstractAsyncContextManager[None]:
    """What is served to those who operate it."""

    async def numbers() -> bytes:
        return metrics.of_controller(metrics.Collected(inventory.values) if lease.holds else metrics.Nothing())

    async def ready() -> bytes:
        # Also while another one leads, or the Lease of one that is gone has to run out: who waits for this will seal.
        if settings.certificates != NONE:
            if not lease.holds:
                await certificates.see()
            if not certificates.expiry.trusted:
                raise NotReady("the API server does not trust the webhook's certificate yet")
        return b"ok\n"

    pages = {"/metrics": numbers, "/livez": ok, "/readyz": ready}
    return served(settings.metrics_listen, settings.metrics_port, pages)


async def _first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Runs all until the first one ends; cancels the others; raises what it raised."""
    tasks = [asyncio.create_task(c) for c in coroutines]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    while others:
        for task in others:
            task.cancel()
        # Again for one that took it for a timeout of its own, as can be where the process slept past both, and goes on.
        ended, others = await asyncio.wait(others, timeout=_PATIENCE)
        for task in ended:
            if not task.cancelled():
                task.exception()  # seen, lest it be logged as if nobody had
    for task in done:
        task.result()
