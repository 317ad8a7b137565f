"""What was measured, as Markdown and as JSON."""

import os
import platform
import re
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import Figure
from tests.cluster import paths, versions


def circumstances() -> dict[str, str]:
    """Date, machine and versions, as one would name them."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{len(os.sched_getaffinity(0))} cores of {_cpu()}, {_memory()}, Linux {platform.release()}",
        "keyshred": _commit(),
        "Kubernetes": versions.KUBERNETES,
        "etcd": f"{versions.ETCD} (--unsafe-no-fsync)",
        "SoftHSM": _first_line("softhsm2-util", "--version"),
        "Python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}, aiohttp {version('aiohttp')}",
        "Go": _first_line("go", "env", "GOVERSION"),
    }


def as_json(figures: Sequence[Figure], about: Mapping[str, str]) -> dict[str, Any]:
    """Everything, each round's value included."""
    return {
        "circumstances": dict(about),
        "figures": [asdict(figure) | {"median": figure.median, "reached": figure.reached} for figure in figures],
    }


def as_markdown(figures: Sequence[Figure], about: Mapping[str, str]) -> str:
    """A table of the figures, and a list of the circumstances."""
    lines = [
        "| row | what | median | min–max of the rounds | goal | | made from (medians) |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        spread = f"{_number(figure, min(figure.values))}–{_number(figure, max(figure.values))} ({len(figure.values)})"
        reached = {None: "", True: "reached", False: "**missed**"}[figure.reached]
        sides = ", ".join(f"{name} {value}" for name, value in figure.sides.items())
        cells = (figure.row, figure.what, _with_unit(figure, figure.median), spread, _goal(figure), reached, sides)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in about.items())])


def _goal(figure: Figure) -> str:
    if figure.at_least is not None:
        return f"≥ {figure.at_least:g}"
    return "" if figure.at_most is None else f"≤ {figure.at_most:g} {figure.unit}".rstrip()


def _with_unit(figure: Figure, value: float) -> str:
    return f"{_number(figure, value)} {figure.unit}".rstrip()


def _number(figure: Figure, value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 20 else f"{value:.2f}"


def _cpu() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _memory() -> str:
    kibibytes = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return f"{int(kibibytes[1]) / 2**20:.0f} GiB" if kibibytes else "memory unknown"


def _commit() -> str:
    return _first_line("git", "-C", str(paths.REPOSITORY), "describe", "--always", "--dirty", "--exclude=*")


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), "unknown")
