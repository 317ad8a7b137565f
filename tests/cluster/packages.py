"""Debian packages that the tests and the demo need, installed where they are missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from tests.cluster.errors import ClusterError

COMMANDS: Final = {
    "softhsm2": "softhsm2-util",
    "opensc": "pkcs11-tool",
    "git": "git",
    "build-essential": "cc",
    # For a node with its containers:
    "libseccomp-dev": "/usr/include/seccomp.h",
    "pkg-config": "pkg-config",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "busybox-static": "busybox",
    # For keyshred's image:
    "debootstrap": "debootstrap",
    "buildah": "buildah",
}
"""Package to a command of it, or a file, whose presence says that it is installed, by whatever means."""
TOOLS: Final = ("softhsm2", "opensc", "git", "build-essential")
NODE: Final = (
    *("libseccomp-dev", "pkg-config", "build-essential"),
    *("containernetworking-plugins", "iptables", "conntrack", "busybox-static"),
)
IMAGE: Final = ("debootstrap", "buildah")


def ensure(packages: Iterable[str]) -> None:
    """Installs those of COMMANDS whose command is missing. Errors: ClusterError (not root, no apt-get, it failed)."""
    missing = [package for package in packages if not _is_there(COMMANDS[package])]
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(f"these packages are needed, and there is no apt-get to install them: {names}")
    if os.geteuid() != 0:
        raise ClusterError(f"these packages are needed; install them as root: apt-get install {names}")
    print(f"installing {names}", file=sys.stderr, flush=True)
    # On a fresh machine there are no package lists yet, and old ones may name versions that are gone.
    if _apt("install", *missing) is not None:
        failure = _apt("update") or _apt("install", *missing)
        if failure is not None:
            raise ClusterError(f"apt-get could not install {names}:\n{failure}")


def _is_there(what: str) -> bool:
    return os.path.exists(what) if os.path.isabs(what) else shutil.which(what) is not None


def _apt(*arguments: str) -> str | None:
    """None where it went well, else its output."""
    options = ["--yes", "--quiet", "--no-install-recommends", "--option=DPkg::Lock::Timeout=120"]
    done = subprocess.run(
        ["apt-get", *options, *arguments],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else done.stdout
