"""The Lease: one holder, by compare-and-swap and by nobody else's clock."""

import asyncio
from typing import Any, cast

import pytest

from keyshred.controller.lease import Lease
from keyshred.errors import Conflict, KubeUnavailable, NotFound, Refused
from keyshred.kube.client import Json, Kube


class Api:
    """The API server's side of one Lease: versions, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0
        self.time = 0.0
        self.slow = 0.0
        self.failure: Exception | None = None
        self.failures = 0

    def _store(self, body: Json) -> Json:
        self.version += 1
        self.lease = body | {"metadata": body["metadata"] | {"resourceVersion": str(self.version)}}
        self.time += self.slow
        return self.lease

    async def get(self, url: str) -> Json:
        if self.failure:
            self.failures += 1
            raise self.failure
        if self.lease is None:
            raise NotFound("no lease")
        return self.lease

    async def create(self, url: str, body: Json) -> Json:
        if self.lease is not None:
            raise Conflict("exists")
        return self._store(body)

    async def replace(self, url: str, body: Json) -> Json:
        if self.lease is None or body["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict("moved")
        return self._store(body)


def lease(api: Api, **more: Any) -> Lease:
    settings: dict[str, Any] = {"duration": 15.0, "margin": 4.0, "clock": lambda: api.time}
    return Lease(cast(Kube, api), "keyshred", "controller", **(settings | more))


async def test_the_first_takes_it_and_the_second_waits() -> None:
    api = Api()
    first, second = lease(api), lease(api)
    assert await first._try()
    assert not await second._try()
    assert first.holds
    assert not second.holds
    with pytest.raises(Conflict):
        second.check()


async def test_it_is_held_no_longer_than_its_margin_allows() -> None:
    api = Api()
    first = lease(api)
    await first._try()
    api.time = 10.9
    first.check()
    api.time = 11.0
    with pytest.raises(Conflict):
        first.check()


async def test_the_time_counts_from_before_the_call() -> None:
    api = Api()
    api.slow = 12.0
    first = lease(api)
    await first._try()
    assert not first.holds


async def test_renewing_keeps_it() -> None:
    api = Api()
    first, second = lease(api), lease(api)
    await first._try()
    for _ in range(5):
        api.time += 10
        assert not await second._try()
        assert await first._try()
    assert first.holds


async def test_a_silent_holder_is_replaced_after_its_duration_as_we_saw_it() -> None:
    api = Api()
    first, second = lease(api), lease(api)
    await first._try()
    api.time = 1000.0
    # Seen for the first time now: how long it was silent before is the other clock's business.
    assert not await second._try()
    api.time = 1015.0
    assert not await second._try()
    api.time = 1015.1
    assert await second._try()
    assert api.lease is not None
    assert api.lease["spec"]["leaseTransitions"] == 2
    assert not await first._try()


async def test_a_race_for_it_has_one_winner() -> None:
    api = Api()
    first, second = lease(api), lease(api)
    await first._try()
    seen = api.lease
    await first._try()
    api_get = api.get

    async def stale(url: str) -> Json:
        assert seen is not None
        return seen | {"spec": seen["spec"] | {"holderIdentity": ""}}

    api.get = stale  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await second._try()
    api.get = api_get  # type: ignore[method-assign]
    assert not second.holds


async def test_keep_ends_when_another_holds_it() -> None:
    api = Api()
    first, second = lease(api, duration=0.003, margin=0.0), lease(api)
    await first._try()
    await first.release()
    await second._try()
    with pytest.raises(Conflict, match="is lost"):
        await first.keep()


@pytest.mark.parametrize("failure", [KubeUnavailable("away"), Refused("it has just started and knows no roles yet")])
async def test_keep_bears_an_api_server_that_fails_until_its_time_is_over(failure: Exception) -> None:
    api = Api()
    first = lease(api, duration=0.003, margin=0.0)
    await first._try()
    api.failure = failure
    keeping = asyncio.create_task(first.keep())
    while api.failures < 3:
        assert not keeping.done()
        await asyncio.sleep(0.001)
    api.time = 0.004
    with pytest.raises(Conflict, match="is lost"):
        await keeping


async def test_released_it_is_free_at_once() -> None:
    api = Api()
    first, second = lease(api), lease(api)
    await first._try()
    await first.release()
    assert not first.holds
    assert await second._try()
