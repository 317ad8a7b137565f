"""What is counted of pods, from lists alone; and that a count which fails keeps no key from being destroyed."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keyshred.controller import residual
from keyshred.controller.ledger import Ledger
from keyshred.controller.residual import Residuals
from keyshred.envelope.format import Born, Envelope, Mechanism, serialise
from keyshred.errors import KeyshredError, KubeUnavailable, Refused
from keyshred.kube.client import Json, Kube, path
from keyshred.names import ANNOTATION_ENVELOPE
from keyshred.policy.residual import Residual
from keyshred.policy.volumes import DRIVER, Files, Source, attributes
from tests.unit.fakes import KEY_A, KEY_B, NOW, SEALING, FakeKube

NAMESPACES = path("namespaces")
PODS, SECRETS, EVENTS = (path(resource, namespace="ns") for resource in ("pods", "secrets", "events"))


class Listing(FakeKube):
    """With pages, as the client makes them."""

    list_all = Kube.list_all


@pytest.fixture
def kube() -> FakeKube:
    made = Listing(NAMESPACES, PODS, SECRETS, EVENTS)
    made.put(NAMESPACES, "ns", metadata={"labels": SEALING})
    for name, key_id in (("db", KEY_A), ("of-another-key", KEY_B)):
        envelope = serialise(
            Envelope(
                key_id, 1, Mechanism.AES_GCM, bytes(60), bytes(16), "ns", name, Born.SEALED, NOW.replace(microsecond=0)
            )
        )
        made.put(SECRETS, name, metadata={"namespace": "ns", "annotations": {ANNOTATION_ENVELOPE: envelope}})
    volumes = [
        {"name": name, "csi": {"driver": DRIVER, "volumeAttributes": attributes(Files((Source(name),)))}}
        for name in ("db", "of-another-key")
    ]
    made.put(PODS, "p", metadata={"uid": "u"}, spec={"volumes": volumes}, status={"phase": "Running"})
    return made


def counting(kube: FakeKube) -> Residuals:
    """With an index that knows nothing yet."""
    index: Any = SimpleNamespace(place=lambda namespace: SimpleNamespace(secrets=None))
    parts: Any = SimpleNamespace(kube=kube.kube, index=index)
    return Residuals(parts, cast(Ledger, None))


async def test_without_an_index_the_label_finds_the_dependents(kube: FakeKube) -> None:
    assert await counting(kube).at_destruction(KEY_A) == Residual(unreached=1)


@pytest.mark.parametrize("url", [NAMESPACES, SECRETS, EVENTS, PODS])
@pytest.mark.parametrize("error", [KubeUnavailable("away"), Refused("no RoleBinding")])
async def test_what_cannot_be_counted_is_not_known(kube: FakeKube, url: str, error: KeyshredError) -> None:
    kube.errors[url] = error
    assert await counting(kube).at_destruction(KEY_A) is None


async def test_nor_what_takes_too_long(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual, "_SECONDS", 0.01)
    kube.hang = asyncio.Event()
    assert await counting(kube).at_destruction(KEY_A) is None


async def test_a_pod_that_cannot_be_read_is_not_reached(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add = Residual.add

    def failing(counted: Residual, pod: Json, *rest: Any) -> None:
        add(counted, pod, *rest)
        if pod["metadata"]["name"] == "odd":
            raise RecursionError("a value")

    monkeypatch.setattr(Residual, "add", failing)
    volumes = kube.objects[PODS]["p"]["spec"]["volumes"]
    others = [{"name": "other", "csi": {"driver": "other"}}, {"name": "tmp", "emptyDir": {}}, "no volume"]
    kube.put(
        *(PODS, "odd"),
        metadata={"uid": "o", "namespace": "ns"},
        spec={"volumes": volumes + others},
        status={"phase": "Running"},
    )
    kube.put(PODS, "q", metadata={"uid": "q"}, spec={"volumes": volumes}, status={"phase": "Running"})
    assert await counting(kube).at_destruction(KEY_A) == Residual(unreached=1 + len(volumes) + 1)
    assert "pod ns/odd cannot be read" in caplog.text and "a value" not in caplog.text


async def test_no_error_keeps_a_key_from_being_destroyed(kube: FakeKube, caplog: pytest.LogCaptureFixture) -> None:
    kube.errors[EVENTS] = TypeError("a value")
    assert await counting(kube).at_destruction(KEY_A) is None
    assert "TypeError" in caplog.text and "a value" not in caplog.text
