"""Errors as HTTP answers: problem bodies of RFC 9457."""

from typing import Final

import orjson
from aiohttp import web

from keyshred.errors import (
    CannotOpen,
    KeyGone,
    KeyshredError,
    Malformed,
    MalformedEnvelope,
    MalformedValue,
    NotAuthenticated,
    NotFound,
    Retry,
    Stop,
)

_RETRY_AFTER: Final = "1"
"""Seconds: what passes by itself mostly passes within one."""

_DAMAGED: Final = "the stored Secret is damaged or was copied from elsewhere: it cannot be opened"


def problem(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    """A problem body; `kind` is the last part of its type and, in words, its title."""
    body = {
        "type": f"urn:keyshred:problem:{kind}",
        "title": kind.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
    }
    return web.Response(
        status=status,
        body=orjson.dumps(body),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store"} | (headers or {}),
    )


def from_error(error: KeyshredError) -> web.Response:
    """The answer that an error of the tree stands for."""
    match error:
        case NotAuthenticated():
            return problem(401, "not-authenticated", str(error), {"WWW-Authenticate": "Bearer"})
        case MalformedEnvelope() | MalformedValue() | CannotOpen():
            return problem(422, "damaged", _DAMAGED)
        case Malformed():
            return problem(400, "malformed", str(error))
        case NotFound():
            return problem(404, "not-found", str(error))
        case KeyGone():
            return problem(410, "key-destroyed", str(error))
        case Retry():
            return problem(503, "try-again", str(error), {"Retry-After": _RETRY_AFTER})
        case Stop():
            return problem(503, "needs-attention", f"{error}", {"Retry-After": "60"})
        case _:
            return problem(403, "refused", str(error))
