"""The HTTP surface: admission, unsealing, health."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from keyshred.config import WebhookSettings
from keyshred.errors import KeyshredError, Stop
from keyshred.observe import metrics
from keyshred.observe.process import where
from keyshred.webhook import review
from keyshred.webhook.guard import Guard
from keyshred.webhook.key_states import KeyStates
from keyshred.webhook.namespaces import NamespaceAdmission
from keyshred.webhook.pods import PodAdmission
from keyshred.webhook.problems import from_error, problem
from keyshred.webhook.readiness import Readiness
from keyshred.webhook.review import Answer, Review
from keyshred.webhook.secrets import SecretAdmission
from keyshred.webhook.tls import check_client
from keyshred.webhook.unseal import Unsealing

log = logging.getLogger(__name__)

Decide = Callable[[Review], Awaitable[Answer]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes lead to."""

    readiness: Readiness
    secrets: SecretAdmission
    guard: Guard
    namespaces: NamespaceAdmission
    pods: PodAdmission
    unsealing: Unsealing
    key_states: KeyStates


def application(settings: WebhookSettings, parts: Parts) -> web.Application:
    """The routes of one worker."""
    app = web.Application(client_max_size=settings.max_body, middlewares=[_problems])
    app.on_response_prepare.append(_close_when_draining(parts.readiness))
    for route, decide in (
        ("secrets", parts.secrets.admit),
        ("rootkeys", parts.guard.stamp_root_key),
        ("rootkeys-delete", parts.guard.admit_delete),
        ("keyauthorizations", parts.guard.stamp_authorization),
        ("namespaces", parts.namespaces.admit),
        ("pods", parts.pods.admit),
    ):
        app.router.add_post(f"/admission/{route}", _admission(settings, route, decide))
    app.router.add_post("/v1/namespaces/{namespace}/secrets/{name}/unseal", parts.unsealing.handle)
    app.router.add_get("/v1/keys/{key_id}", parts.key_states.handle)
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz(parts))
    return app


def _admission(settings: WebhookSettings, route: str, decide: Decide) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        started, outcome = time.perf_counter(), "allowed"
        check_client(request, settings)
        asked = review.read(await request.read())
        try:
            body = review.allowed(asked.uid, await decide(asked))
        except KeyshredError as error:
            outcome = metrics.outcome(error)
            if isinstance(error, Stop):
                log.error("%s of %s/%s: %s", asked.operation, asked.namespace, asked.name, error)
            body = review.denied(asked.uid, error)
        except Exception as error:
            outcome = metrics.outcome(error)
            log.error("%s of %s/%s failed: %s", asked.operation, asked.namespace, asked.name, where(error))
            body = review.denied(asked.uid, Stop("keyshred failed to decide; nothing was stored"))
        metrics.ADMISSION_SECONDS.labels(route, outcome).observe(time.perf_counter() - started)
        return web.Response(body=body, content_type="application/json")

    return handle


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except KeyshredError as error:
        return from_error(error)
    except web.HTTPException as error:
        # aiohttp's own refusals: no such path, method, a body that is too large.
        return problem(error.status, "http", error.reason, {k: v for k, v in error.headers.items() if k == "Allow"})
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception as error:
        log.error("%s %s failed: %s", request.method, request.path, where(error))
        return problem(500, "internal-error", "keyshred failed to answer")


def _close_when_draining(readiness: Readiness) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        # Only an answer can end a connection safely: closed while idle, it may cut off a request that is on its way,
        # and no API server sends a POST twice.
        if readiness.draining:
            response.headers["Connection"] = "close"
            response.force_close()

    return prepare


async def _livez(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _readyz(parts: Parts) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        """Ready means: what the next request needs was just tried, policy and token both, in every worker."""
        await parts.readiness.check()
        return web.Response(text="ok\n")

    return handle
