"""kind-config.yaml, loaded as kind loads it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import build, paths
from tests.cluster.paths import REPOSITORY


def _load(file: Path) -> subprocess.CompletedProcess[str]:
    build.ensure(build.READERS)
    return subprocess.run([paths.binaries() / "kind-config", str(file)], capture_output=True, text=True)


def test_kind_takes_it() -> None:
    done = _load(REPOSITORY / "kind-config.yaml")
    assert done.returncode == 0, done.stderr
    cluster: dict[str, Any] = json.loads(done.stdout)
    assert cluster["Name"] == "keyshred" and len(cluster["Nodes"]) == 1
    image = re.fullmatch(r"kindest/node:v1\.(\d+)\.\d+@sha256:[0-9a-f]{64}", cluster["Nodes"][0]["Image"])
    assert image is not None and int(image[1]) >= 35
    assert cluster["FeatureGates"] == {"EnvFiles": True}


def test_kind_refuses_what_is_misspelt(tmp_path: Path) -> None:
    """So that the test above can fail."""
    config = yaml.safe_load((REPOSITORY / "kind-config.yaml").read_text())
    config["nodez"] = config.pop("nodes")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "nodez" in _load(tmp_path / "config.yaml").stderr
