"""What holds for every test."""

from pathlib import PurePath
from typing import Final

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

# No deadline: the machine is shared, and how long a call takes says nothing about whether it is right.
settings.register_profile("keyshred", deadline=None)
settings.load_profile("keyshred")

_FIRST: Final = ("node", "controller", "system", "sealing", "chart")
"""Groups, the longest first."""


class ByGroup(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Which tests run side by side: those of one group run one after the other, in one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Our own: `--dist=loadgroup` reads the IDs of tests in a way that pytest 9.2 has given up (xdist 3.8)."""
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes longest first: else the others would wait for it at the end."""
    items.sort(key=_turn)


def group(file: str) -> str:
    """The group of a file of tests, given by its path: who shares a cluster is one, other files stand for themselves.

    There is one node on a machine at a time (tests/cluster/node.py). What is in tests/integration/system is two groups,
    each with an installation of its own: one alone would be the last to end.
    """
    match PurePath(file).parts:
        case ("tests", "e2e", *_) | ("tests", "benchmarks", "test_pods.py"):
            return "node"
        case ("tests", "integration", "system", "reapply", _):
            return "sealing"
        case ("tests", "integration", "system", name) if name.startswith("test_sealing"):
            return "sealing"
        case ("tests", "integration", package, _, *_) if package != "crds":
            return package
        case ("tests", "integration", *_):
            return "control plane"
    return file


def _turn(item: pytest.Item) -> int:
    named = group(item.location[0])
    return _FIRST.index(named) if named in _FIRST else len(_FIRST)
