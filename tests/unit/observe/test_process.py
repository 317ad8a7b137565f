"""What every process does first, each in a process of its own: it changes the whole interpreter."""

import subprocess
import sys

import pytest

CODE = """
import logging, resource
from keyshred.observe.process import prepare
prepare({level!r})
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
for name in ("keyshred.x", "aiohttp.client", "kopf", "kubernetes", "asyncio", "anything"):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)("%s-%s", name, level)
"""


@pytest.mark.parametrize(
    ("level", "shown"),
    [("INFO", ["info", "warning", "error"]), ("WARNING", ["warning", "error"]), ("ERROR", ["error"])],
)
def test_prepare(level: str, shown: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(level=level)],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 6 * len(shown)
    assert [line.rsplit("-", 1)[1] for line in lines[: len(shown)]] == shown
