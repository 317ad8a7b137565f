"""The first five rows of the design's table of numbers, and the memory that it takes. Those of pods are in pods.py."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.benchmarks import load
from tests.benchmarks.load import Round
from tests.benchmarks.stage import BARE, NOOP, READ, Stage
from tests.integration.system.tenant import Tenant

_IN_FLIGHT: Final = 32
_CALLERS: Final = 8
"""Unseal calls in flight to each replica while a key is deleted."""

_Seen = Mapping[str, Sequence[Round]]


@dataclass(frozen=True)
class Size:
    """How much is measured. seconds: of one turn; requests: of one side and round, one in flight."""

    rounds: int = 6
    seconds: float = 3.0
    requests: int = 500
    patched: int = 500
    few: int = READ
    many: int = 10_000
    deletions: int = 5
    deletions_of_many: int = 3
    starts: int = 6
    """Pods of one side and round."""
    pods_at_once: int = 50


QUICK: Final = Size(
    rounds=2,
    seconds=0.3,
    requests=10,
    patched=20,
    many=50,
    deletions=1,
    deletions_of_many=1,
    starts=2,
    pods_at_once=5,
)


@dataclass(frozen=True)
class Figure:
    """One number: a value per round, its goal, and the medians of what it was made from."""

    row: str
    what: str
    unit: str
    """Of the values; empty for a ratio."""
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    sides: Mapping[str, str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the values."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None where there is none."""
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most


def measure(stage: Stage, size: Size, say: Callable[[str], None]) -> list[Figure]:
    """All rows but those of pods. Errors: ClusterError."""
    figures: list[Figure] = []
    for row, measured in (
        ("1, creates", creates),
        ("2, one create in flight", one_create),
        ("3, unseals", unseals),
        ("4, deletion", deletion),
        ("5, patches", patches),
        ("memory", memory),
    ):
        say(f"measuring row {row}")
        figures += measured(stage, size)
    return figures


def creates(stage: Stage, size: Size) -> list[Figure]:
    """Row 1."""
    seen = load.turns(
        [
            stage.creates("keyshred", stage.tenant.name, "many").at_once(_IN_FLIGHT),
            stage.creates("no-op webhook", NOOP, "many").at_once(_IN_FLIGHT),
            stage.creates("no webhook", BARE, "many").at_once(_IN_FLIGHT),
        ],
        rounds=size.rounds,
        seconds=size.seconds,
    )
    ratio = _divided(seen, "keyshred", "no-op webhook")
    return [Figure("1", f"Secret creates/s, {_IN_FLIGHT} in flight", "", ratio, at_least=0.9, sides=_rates(seen))]


def one_create(stage: Stage, size: Size) -> list[Figure]:
    """Row 2."""
    seen = load.turns(
        [
            stage.creates("keyshred", stage.tenant.name, "one"),
            stage.creates("no-op webhook", NOOP, "one"),
            stage.creates("no webhook", BARE, "one"),
        ],
        rounds=size.rounds,
        requests=size.requests,
        alternate=True,
    )
    pairs = list(zip(seen["keyshred"], seen["no-op webhook"], strict=True))
    p50, p99 = [a.p50 - b.p50 for a, b in pairs], [a.p99 - b.p99 for a, b in pairs]
    return [
        Figure("2", "one create in flight: added to p50", "ms", p50, at_most=0.5, sides=_latencies(seen, "p50")),
        Figure("2", "one create in flight: added to p99", "ms", p99, at_most=3.0, sides=_latencies(seen, "p99")),
    ]


def unseals(stage: Stage, size: Size) -> list[Figure]:
    """Row 3, with the token of a pod and with one that is bound to none."""
    by_pod = stage.unseals("unseal, pod", stage.keyshred, stage.tenant, pod=True)
    unbound = stage.unseals("unseal, unbound", stage.keyshred, stage.tenant)
    get = stage.gets("GET")
    many = load.turns(
        [side.at_once(_IN_FLIGHT) for side in (by_pod, unbound, get)], rounds=size.rounds, seconds=size.seconds
    )
    one = load.turns([by_pod, unbound, get], rounds=size.rounds, requests=size.requests, alternate=True)
    figures = []
    for side, who in ((by_pod, "by a pod"), (unbound, "unbound")):
        rate = _divided(many, side.name, "GET")
        p50 = [a.p50 / b.p50 for a, b in zip(one[side.name], one["GET"], strict=True)]
        what = f"unseals/s {who} ÷ GETs/s, {_IN_FLIGHT} in flight"
        figures += [
            Figure("3", what, "", rate, at_least=0.4, sides=_rates(many, side.name, "GET")),
            Figure(
                "3",
                f"p50 of one unseal {who} ÷ of one GET",
                "",
                p50,
                at_most=3.0,
                sides=_latencies(one, "p50", side.name, "GET"),
            ),
        ]
    return figures


def deletion(stage: Stage, size: Size) -> list[Figure]:
    """Row 4."""
    stage.second.start_webhook()
    try:
        few = [_delete(stage, size.few) for _ in range(size.deletions)]
        many = [_delete(stage, size.many) for _ in range(size.deletions_of_many)]
    finally:
        stage.second.webhook.stop()
    what = "RootKey's DELETE answered → last unseal served, 2 replicas"
    return [
        Figure("4", f"{what}, {count:,} dependents", "ms", values, at_most=1000.0)
        for count, values in ((size.few, few), (size.many, many))
    ]


def _delete(stage: Stage, dependents: int) -> float:
    """Milliseconds from the answer to the DELETE to the last unseal that any replica served; negative: before."""
    tenant = Tenant.create(stage.keyshred)
    load.send(stage.creates("fill", tenant.name).at_once(_IN_FLIGHT), dependents)
    callers = [
        stage.unseals(name, replica, tenant).at_once(_CALLERS)
        for name, replica in (("first", stage.keyshred), ("second", stage.second))
    ]
    ends = load.until(callers, stage.deletes_root_key(tenant), before=1.0, quiet=2.0, limit=30.0)
    return max(end.last_served for end in ends.values())


def patches(stage: Stage, size: Size) -> list[Figure]:
    """Row 5, as far as there is something to measure: the patch that a rewrap has to make."""
    load.send(stage.creates("fill", stage.tenant.name, "patched").at_once(_IN_FLIGHT), size.patched)
    load.send(stage.creates("fill", BARE, "patched").at_once(_IN_FLIGHT), size.patched)
    seen = load.turns(
        [
            stage.patches("keyshred", stage.tenant.name, "patched", size.patched).at_once(_IN_FLIGHT),
            stage.patches("no webhook", BARE, "patched", size.patched).at_once(_IN_FLIGHT),
        ],
        rounds=size.rounds,
        seconds=size.seconds,
    )
    what = f"metadata patches/s of sealed Secrets ÷ bare ones, {_IN_FLIGHT} in flight (there is no rotation yet)"
    return [Figure("5", what, "", _divided(seen, "keyshred", "no webhook"), at_least=0.5, sides=_rates(seen))]


def memory(stage: Stage, size: Size) -> list[Figure]:
    """Resident memory, as it is after the other rows."""
    workers = [resident(pid) for pid in stage.keyshred.workers()]
    controller = stage.keyshred.controller.pid
    assert controller is not None
    return [
        Figure("8", "webhook worker, resident", "MB", workers, at_most=120.0),
        Figure(
            "7", f"controller, resident, {size.many:,} Secrets and more", "MB", [resident(controller)], at_most=120.0
        ),
    ]


def resident(pid: int) -> float:
    """VmRSS in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) * 1024 / 1e6


def _divided(seen: _Seen, side: str, other: str) -> list[float]:
    return [a.per_second / b.per_second for a, b in zip(seen[side], seen[other], strict=True)]


def _rates(seen: _Seen, *names: str) -> dict[str, str]:
    return {
        name: f"{statistics.median(r.per_second for r in seen[name]):,.0f}/s{_failures(seen[name])}"
        for name in names or seen
    }


def _latencies(seen: _Seen, quantile: str, *names: str) -> dict[str, str]:
    return {
        name: f"{statistics.median(getattr(r, quantile) for r in seen[name]):.2f} ms{_failures(seen[name])}"
        for name in names or seen
    }


def _failures(rounds: Sequence[Round]) -> str:
    failed = sum(r.failed for r in rounds)
    return f" ({failed} failed)" if failed else ""
