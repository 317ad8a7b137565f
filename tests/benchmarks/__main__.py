"""`make bench`: measures, then prints the table. `--quick` is for trying it out: its numbers say little."""

import argparse
import json
import sys
from pathlib import Path

from tests.benchmarks import pods, report, rows, stage
from tests.cluster.errors import ClusterError


def main(arguments: list[str]) -> None:
    """Prints Markdown on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds of load instead of minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's value there as well")
    options = parser.parse_args(arguments)
    size = rows.QUICK if options.quick else rows.Size()
    # First, since most can be missing for them: not after minutes of the others.
    of_pods, left_out = _of_pods(size)
    with stage.raised() as measured:
        figures = sorted([*rows.measure(measured, size, _say), *of_pods], key=lambda figure: figure.row)
    about = report.circumstances() | left_out
    if options.json:
        options.json.write_text(json.dumps(report.as_json(figures, about), indent=1, ensure_ascii=False) + "\n")
    print(report.as_markdown(figures, about))


def _of_pods(size: rows.Size) -> tuple[list[rows.Figure], dict[str, str]]:
    """The rows of pods, and what the report says where they are missing."""
    obstacle = pods.obstacle()
    if obstacle is not None:
        left_out = {"left out": f"row 6 and the node driver of row 8 ({obstacle})"}
        _say(f"left out: {left_out['left out']}")
        return [], left_out
    _say("starting a node")
    with pods.raised() as measured:
        return pods.measure(measured, size, _say), {}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ClusterError as error:
        sys.exit(str(error))
