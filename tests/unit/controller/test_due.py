"""When a scheduled destruction is due."""

from datetime import timedelta

import pytest

from keyshred.controller.destruction import seconds_until
from keyshred.times import rfc3339, utc_now
from tests.unit.fakes import FakeKube

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("due", "api_server", "is_due"),
    [
        (-HOUR, timedelta(), True),
        (HOUR, timedelta(), False),
        # Ours runs ahead.
        (-HOUR, -2 * HOUR, False),
        # The API server's does.
        (HOUR, 2 * HOUR, False),
    ],
)
async def test_both_clocks_must_say_so(due: timedelta, api_server: timedelta, is_due: bool) -> None:
    kube = FakeKube()
    kube.answer = {"metadata": {"creationTimestamp": rfc3339(utc_now() + api_server)}}
    assert (await seconds_until(kube.kube, utc_now() + due) <= 0) is is_due
