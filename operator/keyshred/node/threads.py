"""Work in threads, which nothing can stop half-way."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_the_end(executor: Executor | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns or raises. Who is cancelled meanwhile is so when it has ended, and holds his locks till then.

    `executor` None: the event loop's own.
    """
    running = asyncio.get_running_loop().run_in_executor(executor, partial(work, *args, **kwargs))
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        running.exception()  # seen, lest it be logged as if nobody had
        raise asyncio.CancelledError
    return running.result()
