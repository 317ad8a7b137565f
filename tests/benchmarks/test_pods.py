"""The rows of pods in small: that they measure what they say. How fast anything is, is no test."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keyshred.policy.volumes import DRIVER
from tests.benchmarks import pods, starts
from tests.benchmarks.pods import NATIVE, Stage
from tests.benchmarks.rows import QUICK, Figure
from tests.benchmarks.starts import Client, Side
from tests.cluster.errors import ClusterError
from tests.e2e.pods import mounting, run, wait_running

_NODE = pytest.mark.skipif(pods.obstacle() is not None, reason=str(pods.obstacle()))


@dataclass
class Run:
    """One quick run, and what it ran on."""

    stage: Stage
    figures: list[Figure]


@pytest.fixture(scope="module")
def quick() -> Iterator[Run]:
    """Measured once."""
    with pods.raised() as stage:
        yield Run(stage, pods.measure(stage, QUICK, print))


@_NODE
def test_every_row_has_its_values(quick: Run) -> None:
    assert [(f.row, len(f.values)) for f in quick.figures] == [("6", QUICK.rounds), ("6", QUICK.rounds), ("8", 1)]
    ratio, _, memory = quick.figures
    assert all(value > 0 for value in [*ratio.values, *memory.values])


@_NODE
def test_the_sides_differ_in_who_brings_the_values_alone(quick: Run) -> None:
    kubectl = quick.stage.node.kubectl
    for side in quick.stage.sides():
        name = f"shown-{side.name.rpartition(' ')[2]}"
        kubectl.create(side.pod(name))
        wait_running(kubectl, side.namespace, name)
        spec = kubectl("get", "pod", name, f"--namespace={side.namespace}")["spec"]
        assert _uses_driver(spec) is (side.namespace != NATIVE), side.name
        script = 'echo "${PASSWORD:-$(cat /seen/db/password)}"'
        assert run(kubectl, side.namespace, name, script) == "correct-horse-battery-staple-4711\n", side.name
    assert len(quick.stage.sides()) == 4


@_NODE
def test_the_memory_is_that_of_the_driver(quick: Run) -> None:
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in quick.stage.driver_processes()]
    assert [b"keyshred\0node\0" in command for command in commands] == [True]


@_NODE
def test_a_pod_that_does_not_run_is_no_measurement(quick: Run) -> None:
    client = Client(quick.stage.node)
    failing = {"name": "fails", "image": "docker.io/library/busybox:1", "command": ["sh", "-c", "exit 1"]}
    with pytest.raises(ClusterError, match="Failed"):
        client.start(mounting(NATIVE, "ends", initContainers=[failing]))
    with pytest.raises(ClusterError, match=r'pod unnamed: .*serviceaccount "nobody" not found'):
        client.start(mounting(NATIVE, "unnamed", serviceAccountName="nobody"))


def test_only_the_news_that_it_runs_ends_a_start() -> None:
    def event(kind: str, phase: str | None) -> dict[str, Any]:
        return {"type": kind, "object": {"status": {"phase": phase} if phase else {}}}

    assert [starts.runs(event("MODIFIED", phase)) for phase in ("Pending", None, "Running")] == [False, False, True]
    for kind, phase in (("MODIFIED", "Succeeded"), ("MODIFIED", "Failed"), ("DELETED", "Running"), ("ERROR", None)):
        with pytest.raises(ClusterError):
            starts.runs(event(kind, phase))
    with pytest.raises(ClusterError):
        starts.runs({})


def test_the_sides_take_turns_in_an_order_that_is_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[str] = []
    rounds: list[int] = []
    pauses: list[float] = []
    monkeypatch.setattr("tests.benchmarks.starts.time.sleep", pauses.append)

    def start(pod: dict[str, Any]) -> float:
        began.append(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
        return float(len(began))

    sides = [Side(name, name, mounting) for name in ("a", "b")]
    seen = starts.turns(sides, start, rounds=2, starts=2, end_round=lambda: rounds.append(len(began)))
    assert "".join(name[0] for name in began) == "ba" + "abab" + "baba"
    assert len(set(began)) == len(began)
    assert rounds == [2, 6, 10]
    assert pauses == [0, 0, *[0, 0, 0.5, 0.5] * 2], "the same for both sides"
    assert seen == {"a": [[3.0, 5.0], [8.0, 10.0]], "b": [[4.0, 6.0], [7.0, 9.0]]}, "the first round does not count"


def test_each_round_is_compared_by_its_own_medians() -> None:
    ratio, added = pods.start_figures(
        {
            "keyshred, volume": [[1.0, 1.2, 9.0], [2.0]],
            "native, volume": [[1.0, 1.0, 1.0], [2.0]],
            "keyshred, environment": [[2.5], [1.5]],
            "native, environment": [[1.0], [1.25]],
        }
    )
    assert ratio.values == pytest.approx([1.2, 1.0])
    assert (ratio.unit, ratio.at_most) == ("", 1.1)
    assert ratio.sides == {"keyshred": "1,600 ms", "native": "1,500 ms"}
    assert added.values == pytest.approx([1500.0, 250.0])
    assert (added.unit, added.at_most, added.reached) == ("ms", 1000.0, True)


def _uses_driver(spec: dict[str, Any]) -> bool:
    return any(volume.get("csi", {}).get("driver") == DRIVER for volume in spec["volumes"])
