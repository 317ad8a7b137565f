"""AdmissionReview in and out (admission.k8s.io/v1)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from keyshred.errors import Conflict, Deny, KeyshredError, Malformed, Retry

API_VERSION: Final = "admission.k8s.io/v1"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Review:
    """One request of the API server. `repr` would show plaintext, so it shows nothing."""

    uid: str
    operation: str
    namespace: str
    name: str
    user: str
    dry_run: bool
    object: Json | None = field(repr=False)
    old_object: Json | None = field(repr=False)
    sub_resource: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Allowed, with a JSON patch (RFC 6902) and warnings for the person at `kubectl`."""

    patch: Sequence[Json] = field(default=(), repr=False)
    warnings: Sequence[str] = ()


ALLOW: Final = Answer()


def read(body: bytes) -> Review:
    """Raises Malformed for anything but an AdmissionReview of v1 with a request."""
    try:
        review = orjson.loads(body)
        if review.get("apiVersion") != API_VERSION or review.get("kind") != "AdmissionReview":
            raise Malformed(f"the body is no AdmissionReview of {API_VERSION}")
        request = review["request"]
        result = Review(
            uid=_text(request, "uid"),
            operation=_text(request, "operation"),
            namespace=_text(request, "namespace"),
            name=_text(request, "name"),
            user=_text(request.get("userInfo") or {}, "username"),
            dry_run=bool(request.get("dryRun")),
            object=_object(request, "object"),
            old_object=_object(request, "oldObject"),
            sub_resource=_text(request, "subResource"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        # No cause: the decoder's exception quotes the body.
        raise Malformed(f"the body is no AdmissionReview of {API_VERSION}") from None
    if not result.uid:
        raise Malformed("the AdmissionReview has no uid")
    return result


def _text(request: Json, key: str) -> str:
    value = request.get(key) or ""
    if not isinstance(value, str):
        raise Malformed(f"request.{key} is no string")
    return value


def _object(request: Json, key: str) -> Json | None:
    value = request.get(key)
    if value is not None and not isinstance(value, dict):
        raise Malformed(f"request.{key} is no object")
    return value


def allowed(uid: str, answer: Answer) -> bytes:
    """The AdmissionReview that lets the request pass."""
    response: Json = {"uid": uid, "allowed": True}
    if answer.patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(orjson.dumps(answer.patch)).decode()}
    return _review(response, answer.warnings)


def denied(uid: str, error: KeyshredError) -> bytes:
    """The AdmissionReview that refuses, with the error's message and the HTTP status that its branch stands for."""
    match error:
        case Retry():
            code, reason, hint = 503, "ServiceUnavailable", ""
        case Malformed():
            code, reason, hint = 400, "BadRequest", ""
        case Conflict():
            code, reason, hint = 409, "Conflict", ""
        case Deny():
            code, reason, hint = 403, "Forbidden", ""
        case _:
            code, reason, hint = 500, "InternalError", ": the operator of keyshred has to look at it"
    status = {"status": "Failure", "code": code, "reason": reason, "message": f"{error}{hint}"}
    return _review({"uid": uid, "allowed": False, "status": status}, ())


def _review(response: Json, warnings: Sequence[str]) -> bytes:
    if warnings:
        response["warnings"] = list(warnings)
    return orjson.dumps({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
