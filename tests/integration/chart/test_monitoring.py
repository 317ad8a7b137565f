"""Dashboard and alerts, read by Prometheus' own parser and held against the metrics that keyshred has."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from keyshred.observe import metrics
from tests.cluster import build, chart, paths
from tests.cluster.paths import REPOSITORY

ALERTS: Final = yaml.safe_load((chart.CHART / "files" / "alerts.yaml").read_text())
DASHBOARD: Final = json.loads((chart.CHART / "dashboards" / "keyshred.json").read_text())
RUNBOOKS: Final = REPOSITORY / "docs" / "runbooks"
OF_PROMETHEUS: Final = {"pod", "le", "instance", "job"}
"""Labels that scraping adds, and a histogram's own."""


def _declared() -> dict[str, set[str]]:
    """Series to labels."""
    found = {name: set(declared.labels) for name, declared in metrics.COLLECTED.items()}
    for metric in vars(metrics).values():
        if not hasattr(metric, "_labelnames"):
            continue
        labels, kind = set(metric._labelnames), metric._type
        if kind == "histogram":
            found |= {f"{metric._name}_{part}": labels for part in ("bucket", "count", "sum")}
        else:
            found[metric._name + ("_total" if kind == "counter" else "")] = labels
    return found


def _rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def _expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in _rules())
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"].replace("$__rate_interval", "5m") for target in panel.get("targets", ()))


@pytest.fixture(scope="module")
def selected() -> list[dict[str, Any]]:
    """What all expressions select."""
    build.ensure(build.READERS)
    done = subprocess.run(
        [paths.binaries() / "promql"], input=json.dumps(list(_expressions())), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [selector for expression in json.loads(done.stdout) for selector in expression]


def test_they_use_only_metrics_and_labels_that_exist(selected: list[dict[str, Any]]) -> None:
    declared = _declared()
    assert len(selected) > 50
    for selector in selected:
        assert selector["metric"] in declared, selector
        assert set(selector["labels"] or ()) <= declared[selector["metric"]] | OF_PROMETHEUS, selector


def test_every_metric_is_on_the_dashboard(selected: list[dict[str, Any]]) -> None:
    def base(series: str) -> str:
        return re.sub(r"_(bucket|count|sum)$", "", series)

    shown = {base(selector["metric"]) for selector in selected}
    assert {base(series) for series in _declared()} == shown


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    rules = {rule["alert"]: rule for rule in _rules()}
    assert len(rules) == len(_rules()) > 15
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == set(rules)
    for name, rule in rules.items():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert all(f"## {part}" in text for part in ("Meaning", "Impact", "Diagnosis", "Remedy"))
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert (RUNBOOKS / link).exists(), f"{name}: {link}"


def test_labels_that_an_alert_tells_of_are_there() -> None:
    declared = set().union(*_declared().values())
    for rule in _rules():
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]):
            there = label in declared | {"pod"} and label in rule["expr"]
            assert there or not re.search(r"\b(sum|min|max)\b", rule["expr"])


def test_the_document_lists_every_metric() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| `(keyshred_\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    expected = {}
    for series, labels in _declared().items():
        if not re.search(r"_(count|sum)$", series):
            expected[series.removesuffix("_bucket")] = ", ".join(f"`{label}`" for label in sorted(labels)) or "-"
    assert rows == expected


def test_the_dashboard_has_a_data_source_to_choose() -> None:
    assert [v["type"] for v in DASHBOARD["templating"]["list"]] == ["datasource"]
    for panel in DASHBOARD["panels"]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
