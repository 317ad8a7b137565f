"""AdmissionReviews in and out: what is none is Malformed and nothing else."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.errors import (
    CannotOpen,
    Conflict,
    HsmUnavailable,
    KeyNotUsable,
    KeyshredError,
    Malformed,
    PolicyNotFresh,
    Refused,
    TokenBroken,
)
from keyshred.webhook.review import ALLOW, Answer, allowed, denied, read

REQUEST: dict[str, Any] = {
    "uid": "u1",
    "operation": "UPDATE",
    "namespace": "ns",
    "name": "s",
    "userInfo": {"username": "key-admin"},
    "dryRun": True,
    "object": {"kind": "Secret"},
    "oldObject": {"kind": "Secret", "old": True},
}


def body(**request: Any) -> bytes:
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": REQUEST | request}
    return json.dumps(review).encode()


def test_read() -> None:
    review = read(body())
    assert (review.uid, review.operation, review.namespace, review.name) == ("u1", "UPDATE", "ns", "s")
    assert (review.user, review.dry_run) == ("key-admin", True)
    assert (review.object, review.old_object) == (REQUEST["object"], REQUEST["oldObject"])


def test_what_may_be_missing() -> None:
    review = read(body(object=None, oldObject=None, userInfo=None, namespace=None, name="", dryRun=None))
    assert (review.object, review.old_object, review.user, review.namespace, review.dry_run) == (
        None,
        None,
        "",
        "",
        False,
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"x"}',
        body(uid=""),
        body(uid=5),
        body(object=[]),
        body(object="x"),
        body(userInfo="x"),
        body(userInfo={"username": 5}),
        body(operation=["CREATE"]),
    ],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        read(raw)


def only_malformed(raw: bytes) -> None:
    try:
        read(raw)
    except Malformed as error:
        assert error.__cause__ is None  # the decoder's own exception quotes the body
        assert error.__suppress_context__ or error.__context__ is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    only_malformed(raw)


@given(json_values)
def test_any_json(value: Any) -> None:
    only_malformed(json.dumps(value).encode())


@given(st.fixed_dictionaries({}, optional={key: json_values for key in REQUEST}))
def test_any_request(request: dict[str, Any]) -> None:
    only_malformed(body(**request))


def test_a_review_shows_no_object() -> None:
    shown = repr(read(body(object={"data": {"a": "c2VjcmV0"}}, oldObject={"data": {"a": "c2VjcmV0"}})))
    assert "c2VjcmV0" not in shown
    assert "data" not in shown
    assert "c2VjcmV0" not in repr(Answer([{"value": "c2VjcmV0"}]))


def test_allowed() -> None:
    patch = [{"op": "add", "path": "/data", "value": {}}]
    response = json.loads(allowed("u1", Answer(patch, ("careful",))))
    assert response == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": "u1",
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(patch, separators=(",", ":")).encode()).decode(),
            "warnings": ["careful"],
        },
    }
    assert json.loads(allowed("u1", ALLOW))["response"] == {"uid": "u1", "allowed": True}


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (HsmUnavailable("away"), 503, "ServiceUnavailable"),
        (PolicyNotFresh("old"), 503, "ServiceUnavailable"),
        (Malformed("bad"), 400, "BadRequest"),
        (Conflict("raced"), 409, "Conflict"),
        (Refused("no"), 403, "Forbidden"),
        (KeyNotUsable("no"), 403, "Forbidden"),
        (CannotOpen(), 403, "Forbidden"),
        (TokenBroken("odd"), 500, "InternalError"),
    ],
)
def test_denied(error: KeyshredError, code: int, reason: str) -> None:
    response = json.loads(denied("u1", error))["response"]
    assert (response["uid"], response["allowed"]) == ("u1", False)
    assert (response["status"]["code"], response["status"]["reason"]) == (code, reason)
    assert response["status"]["message"].startswith(str(error))
