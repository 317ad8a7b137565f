"""One etcd member on loopback."""

import urllib.request
from pathlib import Path
from typing import Final

from tests.cluster import paths

PATIENCE: Final = ("--dial-timeout=60s", "--command-timeout=180s")
"""Flags of etcdctl, which else gives up after two and five seconds."""


def command(data: Path, client_port: int, peer_port: int) -> list[str]:
    """Command line that serves what is in folder `data`."""
    client, peer = url(client_port), url(peer_port)
    return [
        str(paths.binaries() / "etcd"),
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def url(port: int) -> str:
    """Where clients find the member."""
    return f"http://127.0.0.1:{port}"


def is_ready(client_port: int) -> bool:
    """Whether it serves reads and writes."""
    try:
        with urllib.request.urlopen(f"{url(client_port)}/readyz", timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
