"""`make bench` in small: that it measures what it says. How fast anything is, is no test."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.benchmarks import load, report, rows
from tests.benchmarks.load import Side
from tests.benchmarks.rows import QUICK, Figure
from tests.benchmarks.stage import BARE, NOOP, Stage, raised
from tests.cluster.errors import ClusterError

_ENVELOPE = "keyshred.dev/envelope"


@dataclass
class Run:
    """One quick run, and what it ran on."""

    stage: Stage
    figures: list[Figure]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Measured once."""
    with raised() as stage:
        yield Run(stage, rows.measure(stage, QUICK, print))


def test_every_row_has_a_value_for_each_round(run: Run) -> None:
    counts = [(figure.row, len(figure.values)) for figure in run.figures]
    assert counts == [
        *[("1", QUICK.rounds)],
        *[("2", QUICK.rounds)] * 2,
        *[("3", QUICK.rounds)] * 4,
        *[("4", 1)] * 2,
        *[("5", QUICK.rounds)],
        *[("8", 2), ("7", 1)],
    ]
    for figure in run.figures:
        assert figure.row in "24" or all(value > 0 for value in figure.values)


def test_the_sides_of_a_create_differ_in_the_webhook_alone(run: Run) -> None:
    def stored(namespace: str) -> dict[str, str]:
        kubectl = run.stage.cluster.kubectl
        secret = kubectl("get", "secret", "many-0", f"--namespace={namespace}")
        return {
            "annotations": json.dumps(secret["metadata"].get("annotations", {})),
            "data": json.dumps(secret["data"]),
        }

    sealed, copied, bare = stored(run.stage.tenant.name), stored(NOOP), stored(BARE)
    assert _ENVELOPE in sealed["annotations"]
    assert "noop.example/envelope" in copied["annotations"]
    assert bare["annotations"] == "{}"
    assert len(copied["data"]) == len(sealed["data"]) > len(bare["data"])
    # A name of another length stands in the envelope.
    assert abs(len(copied["annotations"]) - len(sealed["annotations"])) < 8


def test_what_is_patched_stays_sealed(run: Run) -> None:
    for namespace, sealed in ((run.stage.tenant.name, True), (BARE, False)):
        secret = run.stage.cluster.kubectl("get", "secret", "patched-0", f"--namespace={namespace}")
        annotations = secret["metadata"]["annotations"]
        assert "benchmark" in annotations
        assert (_ENVELOPE in annotations) is sealed


def test_a_side_that_is_refused_is_no_measurement(run: Run) -> None:
    side = run.stage.unseals("stranger", run.stage.keyshred, run.stage.tenant)
    refused = Side(**{**vars(side), "headers": {"Authorization": "Bearer none"}})
    with pytest.raises(ClusterError, match=r"5 of 5 requests failed: .*401"):
        load.turns([refused], rounds=1, requests=5)
    with pytest.raises(ClusterError, match="was never served"):
        load.until([refused], run.stage.gets("event"), before=0.1, quiet=0.1, limit=5)


def test_nothing_but_loopback_is_called(run: Run) -> None:
    side = run.stage.gets("GET")
    elsewhere = Side(**{**vars(side), "url": "https://192.0.2.1/"})
    with pytest.raises(ClusterError, match="only loopback"):
        load.turns([elsewhere], rounds=1, requests=1)


def test_the_report_tells_medians_spread_and_what_was_missed() -> None:
    figures = [
        Figure("1", "rate", "", [0.5, 0.7, 0.6], at_least=0.9, sides={"a": "1/s"}),
        Figure("2", "added", "ms", [0.1], at_most=0.5),
    ]
    text = report.as_markdown(figures, {"date": "2026-11-24"})
    assert "| 1 | rate | 0.60 | 0.50–0.70 (3) | ≥ 0.9 | **missed** | a 1/s |" in text
    assert "| 2 | added | 0.10 ms | 0.10–0.10 (1) | ≤ 0.5 ms | reached |  |" in text
    assert "- date: 2026-11-24" in text
    as_json = json.loads(json.dumps(report.as_json(figures, report.circumstances())))
    assert [figure["reached"] for figure in as_json["figures"]] == [False, True]
    assert as_json["figures"][0]["values"] == [0.5, 0.7, 0.6]
    assert "Kubernetes" in as_json["circumstances"]
