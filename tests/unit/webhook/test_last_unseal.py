"""lastUnsealTime of KeyAuthorizations."""

from datetime import timedelta
from typing import Any

from keyshred.errors import KubeUnavailable
from keyshred.kube.client import own_path
from keyshred.names import KEY_AUTHORIZATIONS
from keyshred.policy.resources import Authorization
from keyshred.times import rfc3339
from keyshred.webhook.last_unseal import LastUnseals
from tests.unit.fakes import NOW, FakeKube, authorization, settle


def served(name: str = "ka", last: Any = None) -> Authorization:
    return Authorization.parse(authorization(name) | {"status": {"lastUnsealTime": last}})


async def test_written_once_a_minute_for_each() -> None:
    kube = FakeKube()
    last = LastUnseals(kube.kube)
    for seconds in (0, 1, 59, 60):
        last.note([served(), served("other")], NOW + timedelta(seconds=seconds))
    await settle()
    assert [url for url, _ in kube.patched] == [
        own_path(KEY_AUTHORIZATIONS, name, "status") for name in ("ka", "other", "ka", "other")
    ]
    assert kube.patched[2][1] == {"status": {"lastUnsealTime": rfc3339(NOW + timedelta(seconds=60))}}


async def test_what_another_replica_wrote_is_enough() -> None:
    kube = FakeKube()
    last = LastUnseals(kube.kube)
    last.note([served(last=rfc3339(NOW - timedelta(seconds=30)))], NOW)
    await settle()
    assert kube.patched == []
    last.note([served(last=rfc3339(NOW - timedelta(seconds=90)))], NOW)
    await settle()
    assert len(kube.patched) == 1


async def test_a_write_that_fails_troubles_nobody() -> None:
    kube = FakeKube()
    url = own_path(KEY_AUTHORIZATIONS, "ka", "status")
    kube.errors[url] = KubeUnavailable("away")
    last = LastUnseals(kube.kube)
    last.note([served()], NOW)
    await settle()
    assert len(kube.patched) == 1
