"""Where things are kept: all below one cache folder that git ignores."""

import os
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """The cache folder: KEYSHRED_CACHE, else `.cache` in the repository."""
    return Path(os.environ.get("KEYSHRED_CACHE") or REPOSITORY / ".cache").resolve()


def binaries() -> Path:
    """Folder of the built binaries."""
    return cache() / "bin"


def run() -> Path:
    """Folder of the state of running clusters, one folder each."""
    return cache() / "run"


def failures() -> Path:
    """Folder where logs of failed test runs are kept."""
    return cache() / "failures"
