"""Errors of the unseal call as problem bodies."""

import json

import pytest

from keyshred.errors import (
    CannotOpen,
    HsmBusy,
    KeyGone,
    KeyNotUsable,
    KeyshredError,
    KubeUnavailable,
    Malformed,
    MalformedEnvelope,
    MalformedValue,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    PolicyNotFresh,
    TokenBroken,
)
from keyshred.policy.authorizations import Verdict
from keyshred.webhook.problems import from_error


@pytest.mark.parametrize(
    ("error", "status", "kind", "header"),
    [
        (NotAuthenticated("x"), 401, "not-authenticated", ("WWW-Authenticate", "Bearer")),
        (NotAllowed(Verdict.NOT_BOUND), 403, "refused", None),
        (KeyNotUsable("x"), 403, "refused", None),
        (NotFound("x"), 404, "not-found", None),
        (KeyGone("x"), 410, "key-destroyed", None),
        (HsmBusy("x"), 503, "try-again", ("Retry-After", "1")),
        (KubeUnavailable("x"), 503, "try-again", ("Retry-After", "1")),
        (PolicyNotFresh("x"), 503, "try-again", ("Retry-After", "1")),
        (TokenBroken("x"), 503, "needs-attention", ("Retry-After", "60")),
        (Malformed("x"), 400, "malformed", None),
        (CannotOpen(), 422, "damaged", None),
        (MalformedEnvelope("x"), 422, "damaged", None),
        (MalformedValue("x"), 422, "damaged", None),
    ],
)
def test_answers(error: KeyshredError, status: int, kind: str, header: tuple[str, str] | None) -> None:
    response = from_error(error)
    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert (response.status, body["status"], body["type"]) == (status, status, f"urn:keyshred:problem:{kind}")
    assert body["detail"]
    if header:
        assert response.headers[header[0]] == header[1]


def test_damage_looks_the_same_whatever_it_is() -> None:
    bodies = {from_error(e).body for e in (CannotOpen(), MalformedValue("short"), MalformedEnvelope("not JSON"))}
    assert len(bodies) == 1


def test_the_audits_reason_is_not_told() -> None:
    assert Verdict.NOT_BOUND.encode() not in from_error(NotAllowed(Verdict.NOT_BOUND)).body  # type: ignore[operator]
