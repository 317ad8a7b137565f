"""Events about refused unseal calls: for pods, once, and never too many."""

from typing import Any

import pytest

from keyshred.names import Reason
from keyshred.policy import residual
from keyshred.webhook import refusals
from keyshred.webhook.refusals import Refusals
from keyshred.webhook.tokens import Identity
from tests.unit.fakes import KEY_A


class FakeEvents:
    """Remembers what was posted."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str]] = []

    async def post(self, about: dict[str, Any], reason: Reason, message: str, *, warning: bool) -> None:
        assert warning is (reason is Reason.UNSEAL_REFUSED) and about["kind"] == "Pod"
        self.posted.append((about["metadata"]["name"], message))


def _pod(name: str = "pod", namespace: str = "ns") -> Identity:
    return Identity(namespace, "account", name, f"uid-of-{name}")


async def _drain(noted: Refusals) -> list[tuple[str, str]]:
    events: Any = noted._events
    while not noted._queue.empty():
        event = noted._queue.get_nowait()
        await events.post(event.pod, event.reason, event.message, warning=event.warning)
    return list(events.posted)


@pytest.fixture
def noted() -> Refusals:
    events: Any = FakeEvents()
    return Refusals(events)


async def test_each_reason_is_told_once(noted: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        noted.note(_pod(), "ns", "db", 403, "not authorised")
    noted.note(_pod(), "ns", "db", 410, "the key is destroyed")
    noted.note(_pod("other"), "ns", "db", 403, "not authorised")
    told = await _drain(noted)
    assert [name for name, _ in told] == ["pod", "pod", "other"]
    assert told[0][1] == "Secret db was not unsealed: not authorised"
    monkeypatch.setattr(refusals, "_AGAIN", -1.0)
    noted.note(_pod(), "ns", "db", 403, "not authorised")
    assert len(await _drain(noted)) == 4


@pytest.mark.parametrize(
    ("identity", "status"),
    [
        (None, 403),
        (Identity("ns", "account", "", ""), 403),
        (_pod(namespace="elsewhere"), 403),
        (_pod(), 503),
        (_pod(), 401),
    ],
)
async def test_who_is_no_pod_of_the_namespace_and_what_passes_by_itself_is_not_told(
    noted: Refusals, identity: Identity | None, status: int
) -> None:
    noted.note(identity, "ns", "db", status, "why")
    assert await _drain(noted) == []


async def test_what_was_cleared_is_told_once_for_each_pod_volume_and_secret(
    noted: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        noted.note_cleared(_pod(), "db", "config", KEY_A)
    noted.note_cleared(_pod(), "db", "other", KEY_A)
    noted.note_cleared(_pod(), "app", "config", KEY_A)
    noted.note_cleared(_pod("other"), "db", "config", KEY_A)
    told = await _drain(noted)
    assert [name for name, _ in told] == ["pod", "pod", "pod", "other"]
    event = {"involvedObject": {"uid": "uid-of-pod"}, "message": told[0][1]}
    assert residual.cleared_by(event, KEY_A) == residual.Cleared("uid-of-pod", "config", "db")
    # Events live an hour: who counts late must find one.
    monkeypatch.setattr(refusals, "_CLEARED_AGAIN", -1.0)
    noted.note_cleared(_pod(), "db", "config", KEY_A)
    assert len(await _drain(noted)) == 5


async def test_what_found_no_room_is_told_when_it_is_said_again(noted: Refusals) -> None:
    for number in range(refusals._WAITING):
        noted.note(_pod(f"p{number}"), "ns", "db", 403, "why")
    noted.note_cleared(_pod(), "db", "config", KEY_A)
    assert len(await _drain(noted)) == refusals._WAITING
    noted.note_cleared(_pod(), "db", "config", KEY_A)
    assert len(await _drain(noted)) == refusals._WAITING + 1


async def test_many_are_dropped_and_memory_is_bounded(noted: Refusals) -> None:
    for number in range(refusals._REMEMBERED + 100):
        noted.note(_pod(f"p{number}"), "ns", "db", 403, "why")
    assert len(await _drain(noted)) == refusals._WAITING
    for number in range(refusals._REMEMBERED + 100):
        noted.note(_pod(f"q{number}"), "ns", "db", 403, "why")
        await _drain(noted)
    assert len(noted._told) <= refusals._REMEMBERED
