"""The load generator `go/load`: its plans and what it saw."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from tests.cluster import paths
from tests.cluster.errors import ClusterError

_SOURCES: Final = Path(__file__).parent / "go"


def build() -> Path:
    """Builds `load` and `noop` (standard library only, seconds); returns their folder. Errors: ClusterError."""
    folder = paths.binaries() / "benchmarks"
    done = subprocess.run(
        ["go", "build", "-o", f"{folder}/", "./..."],
        cwd=_SOURCES,
        env=os.environ | {"CGO_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"building the load generator failed:\n{done.stderr}")
    return folder


@dataclass(frozen=True, kw_only=True)
class Side:
    """One kind of request, sent again and again.

    `{i}` in url and body is its number, from `first` on; `{n}` is the same, modulo `modulo` where that is not 0.
    in_flight: how many at once; want: the only good HTTP status.
    """

    name: str
    method: str
    url: str
    want: int
    ca: Path
    cert: Path | None = None
    key: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: str = field(default="", repr=False)
    first: int = 0
    modulo: int = 0
    in_flight: int = 1
    http2: bool = True

    def at_once(self, in_flight: int) -> Self:
        """The same requests, so many in flight."""
        return replace(self, in_flight=in_flight)

    def plan(self) -> dict[str, Any]:
        """As the load generator reads it."""
        members = {
            name: str(value or "") if name in ("ca", "cert", "key") else value for name, value in asdict(self).items()
        }
        members["inFlight"] = members.pop("in_flight")
        return members


@dataclass(frozen=True)
class Round:
    """What one side did in one round. count: answered as wanted; failed: not so; p50, p99: milliseconds."""

    count: int
    failed: int
    per_second: float
    p50: float
    p99: float


@dataclass(frozen=True)
class End:
    """How the answers to one side ended. last_served: milliseconds since the event was answered; answers: by status."""

    last_served: float
    answers: Mapping[str, int]


def turns(
    sides: Sequence[Side], *, rounds: int, seconds: float = 0, requests: int = 0, alternate: bool = False
) -> dict[str, list[Round]]:
    """The sides take turns of so many seconds, or requests, in each round; see go/load/turns.go.

    Errors: ClusterError where more than 1 in 20 requests of a side fail.
    """
    plan = {"rounds": rounds, "seconds": seconds, "requests": requests, "alternate": alternate}
    seen = _run({"sides": [side.plan() for side in sides], "turns": plan})
    return {name: [_round(one) for one in _mostly_answered(all_rounds)] for name, all_rounds in seen.items()}


def _mostly_answered(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # On a busy machine some are told to try again; numbers that rest on many failures say nothing.
    failed, count = (sum(one[member] for one in rounds) for member in ("failed", "count"))
    if failed * 20 > count:
        failure = next(one["failure"] for one in rounds if one["failed"])
        raise ClusterError(f"{failed} of {count + failed} requests failed: {failure}")
    return rounds


def _round(seen: Mapping[str, Any]) -> Round:
    return Round(seen["count"], seen["failed"], seen["perSecond"], seen["p50"], seen["p99"])


def send(side: Side, count: int) -> None:
    """Sends `count` requests. Errors: ClusterError where one is not answered as wanted."""
    done = turns([side], rounds=0, requests=count)[side.name][0]
    if done.failed:
        raise ClusterError(f"{done.failed} of {count} requests failed")


def until(sides: Sequence[Side], event: Side, *, before: float, quiet: float, limit: float) -> dict[str, End]:
    """All sides ask at once until none is served any more; `event` is sent after `before` seconds.

    quiet: seconds without a served request that count as the end; limit: seconds for the whole. Errors: ClusterError.
    """
    plan = {"event": event.plan(), "before": before, "quiet": quiet, "limit": limit}
    seen = _run({"sides": [side.plan() for side in sides], "until": plan})
    return {name: End(one["lastServed"], one["answers"]) for name, one in seen.items()}


def _run(plan: Mapping[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [paths.binaries() / "benchmarks" / "load"],
        # By stdin, since it holds bearer tokens.
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"the load generator: {done.stderr.strip()[:2000]}")
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
