"""`make bench`: measures, then prints the table. `--quick` is for trying it out: its numbers say little."""

import argparse
import json
import sys
from pathlib import Path

from tests.benchmarks import report, rows, stage
from tests.cluster.errors import ClusterError


def main(arguments: list[str]) -> None:
    """Prints Markdown on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds of load instead of minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's value there as well")
    options = parser.parse_args(arguments)
    with stage.raised() as measured:
        figures = rows.measure(measured, rows.QUICK if options.quick else rows.Size(), _say)
    about = report.circumstances()
    if options.json:
        options.json.write_text(json.dumps(report.as_json(figures, about), indent=1, ensure_ascii=False) + "\n")
    print(report.as_markdown(figures, about))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ClusterError as error:
        sys.exit(str(error))
