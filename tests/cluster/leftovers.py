"""What a node leaves on the machine when it is stopped or killed: containers, mounts, a bridge, iptables rules.

All of it is found by the folder that the node lives in, so that nothing of anybody else's is touched.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.cluster import paths

BRIDGE: Final = "keyshred0"
_SECONDS: Final = 10.0


def owner_of_bridge() -> Path | None:
    """Folder of the node that the bridge belongs to; None: there is no bridge."""
    try:
        return Path(Path(f"/sys/class/net/{BRIDGE}/ifalias").read_text().strip())
    except FileNotFoundError:
        return None


def clean(directory: Path) -> None:
    """Kills the containers of the node in `directory`, and takes its mounts, its bridge and its iptables rules away."""
    for _ in range(2):  # a shim that dies may leave a child that was just being made
        kill_containers(directory)
    for mount in sorted(_mounts(directory), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    if owner_of_bridge() == directory:
        if (paths.binaries() / "kube-proxy").exists():
            subprocess.run([str(paths.binaries() / "kube-proxy"), "--cleanup"], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)


def kill_containers(directory: Path) -> None:
    """SIGKILLs every process of every container there, and what keeps them; returns when they are gone."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and _is_of(entry, directory)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _SECONDS
    while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)


def _is_of(process: Path, directory: Path) -> bool:
    """Whether it is a shim of the folder's containerd, or runs on a root file system that lies in the folder."""
    try:
        command = (process / "cmdline").read_bytes().split(b"\0")
        if b"containerd-shim" in command[0]:
            return any(word.startswith(bytes(directory) + b"/") for word in command)
        if int(process.name) == os.getpid():
            return False
        root = (process / "mountinfo").read_text().split("\n", 1)[0]
    except OSError:
        return False
    return " / / " in root and f"{directory}/containerd/" in root


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _mounts(directory: Path) -> list[str]:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounts = [(root, point) for _, _, _, root, point, *_ in lines]
    # Folders of the node that are mounted elsewhere, and what is mounted in them: volumes of pods in the kubelet's.
    bound = [point for root, point in mounts if root.startswith(f"{directory}/")]
    return [
        point for _, point in mounts if point in bound or point.startswith((f"{directory}/", *(f"{b}/" for b in bound)))
    ]
