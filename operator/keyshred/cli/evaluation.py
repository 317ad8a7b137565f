"""`keyshred evaluation-token`: an init container that sees to the software token before a process uses it.

The controller's pod makes PINs and token at the first start; all others wait for them. PINs are in a Secret that no
template renders, so that neither an upgrade nor a second rendering makes new ones.
"""

import asyncio
import base64
import contextlib
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from keyshred.config import EvaluationSettings
from keyshred.controller import token_record
from keyshred.errors import Conflict, NotFound, Retry
from keyshred.hsm import softhsm_setup
from keyshred.kube.client import Json, Kube, path
from keyshred.names import LABEL_MANAGED_BY, MANAGED_BY, PINS_SECRET, TOKEN_CONFIG_MAP
from keyshred.observe.process import prepare
from keyshred.policy.evaluation import Found, Step, next_step

log = logging.getLogger(__name__)

_LABEL: Final = "keyshred"
_PIN_BYTES: Final = 24
_PAUSE: Final = 1.0
"""Seconds between looks while another pod has to come first."""


def run(settings: EvaluationSettings) -> None:
    """Returns when the token is there and its PIN in the file. Raises TokenMismatch where the keys are elsewhere."""
    prepare(settings.log_level, settings.log_format)
    asyncio.run(_run(settings))


async def _run(settings: EvaluationSettings) -> None:
    kube = await Kube.connect(settings.kubeconfig)
    try:
        told = ""
        while True:
            try:
                if await _step(kube, settings):
                    return
            except Retry as error:
                if str(error) != told:
                    told = str(error)
                    log.info("waiting: %s", told)
                await asyncio.sleep(_PAUSE)
    finally:
        await kube.close()


async def _step(kube: Kube, settings: EvaluationSettings) -> bool:
    """One step; whether it was the last."""
    tokens = Path(settings.folder) / "tokens"
    # The record first: a token that is made meanwhile is then known to it, or not yet recorded.
    record = await _get(kube, settings, "configmaps", TOKEN_CONFIG_MAP)
    pins = await _get(kube, settings, "secrets", PINS_SECRET)
    found = Found(
        serial=softhsm_setup.serial_of(tokens, _LABEL),
        pins=pins is not None,
        record=None if record is None else record["data"],
        storage=settings.storage,
        node=settings.node,
    )
    step = next_step(found, make=settings.make)
    if step is Step.MAKE:
        pin, so_pin = _decoded(pins or await _make_pins(kube, settings))
        softhsm_setup.make(tokens, _LABEL, pin, so_pin)
        log.info("made the token of the evaluation mode, in %s", tokens)
    elif step is Step.SET_ASIDE:
        aside = softhsm_setup.set_aside(tokens)
        log.warning(
            "there was a token (serial %s) that this cluster does not know, without its PINs (Secret %s): it is kept "
            "in %s, and a new one is made. If its keys are wanted, stop keyshred, put both back, and delete the "
            "ConfigMap %s",
            *(found.serial, PINS_SECRET, aside, TOKEN_CONFIG_MAP),
        )
    elif step is Step.RECORD:
        data = {"label": _LABEL, "serial": found.serial or "", "mode": "evaluation", "storage": settings.storage}
        await token_record.create(kube, settings.namespace, TOKEN_CONFIG_MAP, data | _node(settings))
    elif pins is not None:
        _leave_pin(Path(settings.pin_file), _decoded(pins)[0])
    return step is Step.USE


def _node(settings: EvaluationSettings) -> dict[str, str]:
    return {"node": settings.node} if settings.storage == "node" else {}


async def _make_pins(kube: Kube, settings: EvaluationSettings) -> Json:
    """The Secret, made now, or a moment ago by another pod."""
    data = {name: secrets.token_urlsafe(_PIN_BYTES) for name in ("pin", "so-pin")}
    body: Json = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": PINS_SECRET, "labels": {LABEL_MANAGED_BY: MANAGED_BY}},
        "stringData": data,
    }
    with contextlib.suppress(Conflict):
        await kube.create(path("secrets", namespace=settings.namespace), body)
    return await kube.get(path("secrets", PINS_SECRET, namespace=settings.namespace))


async def _get(kube: Kube, settings: EvaluationSettings, resource: str, name: str) -> Json | None:
    try:
        return await kube.get(path(resource, name, namespace=settings.namespace))
    except NotFound:
        return None


def _decoded(pins: Json) -> tuple[str, str]:
    return base64.b64decode(pins["data"]["pin"]).decode(), base64.b64decode(pins["data"]["so-pin"]).decode()


def _leave_pin(file: Path, pin: str) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(pin)
