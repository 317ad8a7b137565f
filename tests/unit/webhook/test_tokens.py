"""Bearer tokens: what the API server says of them counts, for our audience, and not for long."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from keyshred.errors import KubeUnavailable, NotAuthenticated, Refused
from keyshred.webhook import tokens
from keyshred.webhook.tokens import Identity, Tokens
from tests.unit.fakes import FakeKube

USER = {"username": "system:serviceaccount:ns:app"}
BOUND = USER | {
    "extra": {"authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["u"]}
}


def jwt(**claims: Any) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"Bearer e30.{part}.c2ln"


# A day: it is read when the tests are collected, and may be used when the longest run of all of them ends.
FRESH = jwt(exp=time.time() + 86_400)


def kube(**status: Any) -> FakeKube:
    fake = FakeKube()
    fake.answer = {"status": {"authenticated": True, "audiences": ["keyshred.dev"], "user": BOUND} | status}
    return fake


async def test_a_bound_token() -> None:
    fake = kube()
    assert await Tokens(fake.kube, 10).identify(FRESH) == Identity("ns", "app", "p", "u")
    url, body = fake.created[0]
    assert url == "/apis/authentication.k8s.io/v1/tokenreviews"
    assert body["spec"] == {"token": FRESH.removeprefix("Bearer "), "audiences": ["keyshred.dev"]}


async def test_an_unbound_token() -> None:
    assert await Tokens(kube(user=USER).kube, 10).identify(FRESH) == Identity("ns", "app", "", "")


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": False},
        {"audiences": ["other"]},
        {"audiences": []},
        {"audiences": None},
        {"user": {"username": "key-admin"}},
        {"user": {"username": "system:serviceaccount:ns"}},
        {"user": {"username": "system:serviceaccount:ns:"}},
        {"user": None},
    ],
)
async def test_refused(status: dict[str, Any]) -> None:
    fake = kube(**status)
    reviewer = Tokens(fake.kube, 10)
    for _ in range(2):
        with pytest.raises(NotAuthenticated):
            await reviewer.identify(FRESH)
    assert len(fake.created) == 2  # refusals are not kept


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic x", "x", "Bearer ü", "Bearer " + "x" * 20_000])
async def test_what_is_no_token_is_not_asked_about(header: str) -> None:
    fake = kube()
    with pytest.raises(NotAuthenticated):
        await Tokens(fake.kube, 10).identify(header)
    assert fake.created == []


@pytest.mark.parametrize(
    ("header", "reviews"),
    [
        (FRESH, 1),
        (jwt(exp=time.time() - 1), 2),
        (jwt(), 2),  # no expiry that we know of: asked each time
        ("Bearer opaque", 2),
        (jwt(exp="x"), 2),
        ("Bearer a.%%%.c", 2),
    ],
    ids=["fresh", "expired", "without expiry", "opaque", "odd expiry", "no base64"],
)
async def test_kept_only_up_to_its_own_expiry(header: str, reviews: int) -> None:
    fake = kube()
    reviewer = Tokens(fake.kube, 10)
    for _ in range(2):
        await reviewer.identify(header)
    assert len(fake.created) == reviews


async def test_kept_only_for_the_ttl() -> None:
    fake = kube()
    reviewer = Tokens(fake.kube, 0)
    for _ in range(2):
        await reviewer.identify(FRESH)
    assert len(fake.created) == 2


async def test_a_clock_that_is_set_back_makes_no_answer_last(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = kube()
    reviewer = Tokens(fake.kube, 0.01)
    await reviewer.identify(FRESH)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    await asyncio.sleep(0.02)
    await reviewer.identify(FRESH)
    assert len(fake.created) == 2


async def test_one_token_is_not_taken_for_another() -> None:
    fake = kube()
    reviewer = Tokens(fake.kube, 10)
    await reviewer.identify(FRESH)
    fake.answer = {"status": {"authenticated": False}}
    with pytest.raises(NotAuthenticated):
        await reviewer.identify(FRESH + "x")


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MAX_CACHED", 2)
    reviewer = Tokens(kube().kube, 10)
    for n in range(5):
        await reviewer.identify(jwt(exp=time.time() + 3600, n=n))
    assert len(reviewer._cache) == 2


async def test_a_right_that_we_lack_is_not_the_callers_fault() -> None:
    fake = kube()
    fake.errors["/apis/authentication.k8s.io/v1/tokenreviews"] = Refused(
        "HTTP 403: keyshred cannot create tokenreviews"
    )
    with pytest.raises(KubeUnavailable):
        await Tokens(fake.kube, 10).identify(FRESH)
