"""The token for asyncio: a bounded queue with a deadline per call, before the one thread that owns the module."""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from keyshred.config import HSM_DEADLINE, HSM_QUEUE, SLOW_CALLS, CommonSettings
from keyshred.envelope.format import Mechanism
from keyshred.envelope.seal import DEK_SIZE
from keyshred.errors import HsmBusy, HsmUnavailable, KeyshredError, TokenBroken
from keyshred.hsm import uri as token_uri
from keyshred.hsm.device import Pkcs11Device
from keyshred.hsm.interface import MAX_HEAD, Device, KeyRef, Survey, TokenStatus
from keyshred.hsm.pin import PinFile

_HOPELESS: Final = 20
"""Deadlines."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _Job:
    """One call. No dataclass: a repr would show the arguments, and they hold DEKs."""

    __slots__ = ("arguments", "claim", "future", "method")

    def __init__(self, method: str, arguments: tuple[Any, ...], future: "asyncio.Future[Any]") -> None:
        self.method = method
        self.arguments = arguments
        self.future = future
        # Whoever takes it decides: the thread, that the work is done; the deadline, that it never will be.
        self.claim = threading.Lock()


class HsmService:
    """The operations of `Device` as coroutines, for one event loop.

    Each of them raises, besides what the device raises: HsmBusy at once where the queue is full; HsmUnavailable where
    the deadline passes. If it passes in the queue, the work is not done afterwards; if it passes while the token works,
    the outcome is unknown, and further calls fail at once until the token has answered. A cancelled caller's work is
    dropped unless it has begun.
    """

    def __init__(
        self,
        device: Device,
        *,
        deadline: float = HSM_DEADLINE,
        slow_deadline: float = HSM_DEADLINE * SLOW_CALLS,
        queue_limit: int = HSM_QUEUE,
    ) -> None:
        """Takes the device over and starts its thread; deadlines in seconds. Needs a running event loop."""
        self._device = device
        self.observer: Callable[[str, float, BaseException | None], None] = lambda operation, seconds, error: None
        """Told of each call: its name, the seconds it took, and what it failed with."""
        device.wanted = self._wanted
        self._deadline = deadline
        self._slow_deadline = slow_deadline
        self._queue_limit = queue_limit
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._pending = 0
        self._overdue: _Job | None = None
        self._at_work: _Job | None = None
        self._closed = False
        self._done: deque[tuple[_Job, Any, KeyshredError | None]] = deque()
        self._delivering = False
        self._stopped = asyncio.Event()
        # A daemon: a module that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="hsm", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        uri: str,
        *,
        mechanism: Mechanism | None = None,
        refused_pins: Path | None = None,
        deadline: float = HSM_DEADLINE,
        slow_deadline: float = HSM_DEADLINE * SLOW_CALLS,
        queue_limit: int = HSM_QUEUE,
    ) -> Self:
        """The service for a token URI. The token itself is opened by the first call, and again after it was away.

        mechanism: force one instead of negotiating; refused_pins: see PinFile. Raises Malformed for the URI.
        """
        parsed = token_uri.parse(uri)
        device = Pkcs11Device(parsed, PinFile(parsed.pin_source, refused_pins), mechanism)
        return cls(device, deadline=deadline, slow_deadline=slow_deadline, queue_limit=queue_limit)

    @classmethod
    def of(cls, settings: CommonSettings) -> Self:
        """The service that the settings describe. Raises Malformed for the URI."""
        return cls.start(
            settings.token_uri,
            refused_pins=Path(settings.refused_pin_file) if settings.refused_pin_file else None,
            deadline=settings.hsm_deadline,
            slow_deadline=settings.hsm_deadline * SLOW_CALLS,
            queue_limit=settings.hsm_queue,
        )

    @property
    def depth(self) -> int:
        """Calls that wait for the token, or are at it."""
        return self._pending

    # --- the operations of Device ---------------------------------------------------------------------------------

    async def status(self) -> TokenStatus:
        """See Device.status."""
        return await self._call(Device.status)

    async def ready(self) -> None:
        """Returns once the token has answered and worked; raises why it does not."""
        await self.status()

    async def find(self, key_id: UUID) -> tuple[KeyRef, ...]:
        """See Device.find."""
        return await self._call(Device.find, key_id)

    async def survey(self) -> Survey:
        """See Device.survey."""
        return await self._call(Device.survey, slow=True)

    async def generate(self, ref: KeyRef) -> None:
        """See Device.generate."""
        await self._call(Device.generate, ref, slow=True)

    async def check_value(self, ref: KeyRef) -> bytes:
        """See Device.check_value."""
        return await self._call(Device.check_value, ref)

    async def wrap(self, ref: KeyRef, mechanism: Mechanism, dek: bytes) -> bytes:
        """See Device.wrap. ValueError for a DEK that is not 32 bytes."""
        if len(dek) != DEK_SIZE:
            raise ValueError(f"a DEK has {DEK_SIZE} bytes")
        return await self._call(Device.wrap, ref, mechanism, dek)

    async def unwrap(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bytes:
        """See Device.unwrap."""
        return await self._call(Device.unwrap, ref, mechanism, wrapped)

    async def destroy(self, key_id: UUID) -> int:
        """See Device.destroy."""
        return await self._call(Device.destroy, key_id, slow=True)

    async def opens_under_any_key(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bool:
        """See Device.opens_under_any_key."""
        return await self._call(Device.opens_under_any_key, ref, mechanism, wrapped, slow=True)

    async def claims(self, key_id: UUID) -> frozenset[str]:
        """See Device.claims."""
        return await self._call(Device.claims, key_id)

    async def set_claim(self, key_id: UUID, cluster_uid: str, claimed: bool) -> None:
        """See Device.set_claim."""
        await self._call(Device.set_claim, key_id, cluster_uid, claimed, slow=True)

    async def head(self, key_id: UUID) -> bytes | None:
        """See Device.head."""
        return await self._call(Device.head, key_id)

    async def set_head(self, key_id: UUID, head: bytes) -> None:
        """See Device.set_head. ValueError for a head of more than 512 bytes."""
        if len(head) > MAX_HEAD:
            raise ValueError(f"a ledger's head has at most {MAX_HEAD} bytes")
        await self._call(Device.set_head, key_id, head, slow=True)

    async def reopen(self) -> None:
        """The next call opens the token anew, in a fresh logged-in session."""
        await self._call(Device.close)

    async def until_hopeless(self) -> None:
        """Raises HsmUnavailable once a call has not come back for 20 deadlines: only another process can help then."""
        silent, watched = 0, None
        while silent < _HOPELESS:
            await asyncio.sleep(self._deadline)
            silent = silent + 1 if self._overdue is not None and self._overdue is watched else 0
            watched = self._overdue
        raise HsmUnavailable("a call of the token does not come back: this process ends, and another one takes over")

    async def close(self) -> None:
        """Take no more calls, finish those that wait, log out. Gives up on a token that hangs."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), self._slow_deadline)

    # --- the loop's side ------------------------------------------------------------------------------------------

    async def _call(self, method: Callable[..., _T], *arguments: Any, slow: bool = False) -> _T:
        started = self._loop.time()
        try:
            result = await self._ask(method, *arguments, slow=slow)
        except KeyshredError as error:
            self.observer(method.__name__, self._loop.time() - started, error)
            raise
        self.observer(method.__name__, self._loop.time() - started, None)
        return result

    async def _ask(self, method: Callable[..., _T], *arguments: Any, slow: bool) -> _T:
        if self._closed:
            raise HsmUnavailable("the connection to the token is closed")
        if self._overdue is not None:
            raise HsmUnavailable("the token does not answer: an earlier call is still under way")
        if self._pending >= self._queue_limit:
            raise HsmBusy(f"{self._pending} calls wait for the token")
        self._pending += 1
        job = _Job(method.__name__, arguments, self._loop.create_future())
        self._jobs.put(job)
        timer = self._loop.call_later(self._slow_deadline if slow else self._deadline, self._expire, job)
        try:
            return await job.future  # type: ignore[no-any-return]
        finally:
            timer.cancel()
            # A cancelled caller: the thread finds the claim taken and skips the work, or is at it already.
            job.claim.acquire(blocking=False)

    def _expire(self, job: _Job) -> None:
        if job.future.done():
            return
        if job.claim.acquire(blocking=False):
            job.future.set_exception(HsmUnavailable("the token had no time for this call; it was not made"))
        else:
            self._overdue = job
            job.future.set_exception(HsmUnavailable("the token did not answer in time; whether it did it is unknown"))

    def _deliver(self) -> None:
        # Cleared first: what the thread adds from here on is either drained below or announced anew.
        self._delivering = False
        while self._done:
            job, result, error = self._done.popleft()
            self._pending -= 1
            if job is self._overdue:
                self._overdue = None
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    # --- the thread's side ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, error = None, None
            if job.claim.acquire(blocking=False):
                self._at_work = job
                try:
                    result = getattr(self._device, job.method)(*job.arguments)
                except KeyshredError as failure:
                    error = _without_frames(failure)
                except Exception as failure:
                    # Not ours, so its text is nobody's to read: it could quote an argument.
                    _log.error("the token layer failed with %s in %s", type(failure).__name__, job.method)
                    error = TokenBroken(f"the token layer failed ({type(failure).__name__})")
                self._at_work = None
            job.arguments = ()
            self._done.append((job, result, error))
            del job, result, error
            self._announce(self._deliver)
        with contextlib.suppress(Exception):
            self._device.close()
        self._announce(self._stopped.set, always=True)

    def _wanted(self) -> bool:
        return self._at_work is not None and not self._at_work.future.done()

    def _announce(self, callback: Callable[[], None], always: bool = False) -> None:
        # One wake-up of the loop delivers all that is done by the time it runs.
        if self._delivering and not always:
            return
        self._delivering = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback)


def _without_frames(error: KeyshredError) -> KeyshredError:
    """The error and its causes without tracebacks: their frames hold DEKs and PINs, and keep them alive."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link.__context__, link = None, link.__cause__
    return error
