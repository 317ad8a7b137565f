from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.node.publishing import Secrets, Volume


@pytest.fixture
def secrets() -> Secrets:
    return Secrets({"app": {"a": b"one", "b": b"two"}, "db": {"c": b"three"}})


@pytest.fixture
async def volume(tmp_path: Path, secrets: Secrets) -> AsyncIterator[Volume]:
    made = Volume(tmp_path, secrets)
    yield made
    await made.publisher.unpublish(made.target)
    assert not made.target.exists()
