"""The image: what is in it, and what is not."""

import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

import keyshred
from tests.cluster import image
from tests.cluster.node import Node


@pytest.fixture(scope="module")
def archive() -> Iterator[tarfile.TarFile]:
    """As `make image` writes it."""
    with tarfile.open(image.ensure()) as opened:
        yield opened


def _read(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None
    return json.load(file)


def test_configuration(archive: tarfile.TarFile) -> None:
    (manifest,) = _read(archive, "manifest.json")
    assert manifest["RepoTags"] == [f"ghcr.io/keyshred/keyshred:{keyshred.__version__}"]
    described = _read(archive, manifest["Config"])
    config = described["config"]
    assert config["User"] == "65532:65532" and config["Entrypoint"] == ["/usr/local/bin/keyshred"]
    assert config["Labels"]["org.opencontainers.image.version"] == keyshred.__version__
    assert config["Labels"]["org.opencontainers.image.source"].endswith("/keyshred")
    # Nothing of the machine that built it: no proxy, no index, no certificate.
    told = json.dumps(described).lower()
    assert not [word for word in ("proxy", "index-url", "find-links", "trusted-host", "pip_cert=/etc") if word in told]


def test_size_and_content(archive: tarfile.TarFile) -> None:
    (manifest,) = _read(archive, "manifest.json")
    unpacked, files = 0, set[str]()
    for layer in manifest["Layers"]:
        content = archive.extractfile(layer)
        assert content is not None
        with tarfile.open(fileobj=content) as tar:
            for member in tar:
                unpacked += member.size
                files.add(f"/{member.name.removeprefix('./')}")
    assert unpacked <= 250_000_000
    commands = {file.rpartition("/")[2] for file in files if re.search(r"/s?bin/[^/]+$", file)}
    assert {"keyshred", "softhsm2-util"} <= commands and "/usr/lib/softhsm/libsofthsm2.so" in files
    assert not commands & {"gcc", "cc", "c++", "ld", "make", "pip", "pip3", "git"}
    assert not [file for file in files if re.search(r"/(setuptools|pip|ensurepip)/|/pip\.conf$|/root/\.cache/", file)]
    assert "/opt/keyshred/operator/keyshred/cli/main.py" in files
    assert not [file for file in files if "/tests/" in file and "/opt/keyshred/operator" in file]


def test_it_runs_restricted_and_read_only(node: Node) -> None:
    script = "id -u; touch /x 2>&1; touch /opt/keyshred/x 2>&1; keyshred --version; keyshred webhook --help | head -1"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "image"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "c",
                    "image": image.NAME,
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", script],
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    node.kubectl.run("create", "-f", "-", input=json.dumps(pod))
    node.kubectl.run("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/image", "--timeout=180s")
    said = node.kubectl.run("logs", "image").stdout.splitlines()
    assert (
        said[0] == "65532" and said[1].endswith("Read-only file system") and said[2].endswith("Read-only file system")
    )
    assert said[3] == f"keyshred {keyshred.__version__}" and said[4].startswith("usage: keyshred webhook")
