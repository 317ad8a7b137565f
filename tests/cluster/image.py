"""Builds keyshred's own image from its Dockerfile, without a registry: `python -m tests.cluster image` (`make image`).

The base image is made of Debian's packages and stands in for the one of the registry. Both are kept in the cache, and
built again only when what goes into them changed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import keyshred
from tests.cluster import packages, paths
from tests.cluster.errors import ClusterError

NAME: Final = f"ghcr.io/keyshred/keyshred:{keyshred.__version__}"
"""As the chart has it by default."""
ARCHIVE: Final = paths.REPOSITORY / "dist" / "keyshred-image.tar"
_BASE: Final = "localhost/debian:bookworm-slim"
_SLIM: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt", "var/lib/apt")
_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"


def ensure() -> Path:
    """The archive, built now where it is missing or out of date. Errors: ClusterError (with the build's output)."""
    stamp = _folder() / "stamp"
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = _inputs()
        if ARCHIVE.exists() and stamp.exists() and stamp.read_text() == f"{wanted} {ARCHIVE.stat().st_mtime_ns}":
            return ARCHIVE
        packages.ensure(packages.IMAGE)
        if _buildah("inspect", "--type=image", _BASE, check=False).returncode:
            _make_base()
        _say(f"building {NAME}")
        ARCHIVE.parent.mkdir(exist_ok=True)
        ARCHIVE.unlink(missing_ok=True)
        _buildah(
            "bud",
            "--isolation=chroot",
            "--pull-never",
            "--layers",
            "--quiet",
            # What this machine trusts, for the download of packages alone: it leaves nothing in the image.
            f"--secret=id=ca,src={_CERTIFICATES}",
            f"--build-arg=BASE={_BASE}",
            f"--build-arg=VERSION={keyshred.__version__}",
            f"--tag={NAME}",
            str(paths.REPOSITORY),
        )
        _buildah("push", "--quiet", NAME, f"docker-archive:{ARCHIVE}:{NAME}")
        stamp.write_text(f"{wanted} {ARCHIVE.stat().st_mtime_ns}")
    return ARCHIVE


def _make_base() -> None:
    _say("making a Debian base image (about 1.5 minutes)")
    with tempfile.TemporaryDirectory(dir=_folder()) as work:
        root = Path(work) / "root"
        _run("debootstrap", "--variant=minbase", "bookworm", str(root))
        for part in _SLIM:
            for path in (root / part).iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (root / "var/lib/apt/lists").mkdir()
        container = _buildah("from", "scratch").stdout.strip()
        _run("tar", "--create", f"--file={work}/root.tar", f"--directory={root}", ".")
        _buildah("add", "--quiet", container, f"{work}/root.tar", "/")
        _buildah("config", "--cmd=/bin/sh", container)
        _buildah("commit", "--quiet", "--rm", container, _BASE)


def _inputs() -> str:
    """Hash of everything that decides what is in the image, but for the Debian packages of the day."""
    content = hashlib.sha256()
    for file in _files():
        content.update(f"{file.relative_to(paths.REPOSITORY)}\0".encode() + file.read_bytes() + b"\0")
    return content.hexdigest()


def _files() -> Iterator[Path]:
    yield from (paths.REPOSITORY / name for name in ("Dockerfile", ".dockerignore", "requirements.txt"))
    for file in sorted((paths.REPOSITORY / "operator").rglob("*")):
        if file.is_file() and file.suffix != ".pyc":
            yield file


def _folder() -> Path:
    return paths.cache() / "image"


def _buildah(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    store = [f"--root={_folder() / 'store'}", f"--runroot={_folder() / 'run'}", "--storage-driver=vfs"]
    return _run("buildah", *store, *arguments, check=check)


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ClusterError(f"{command[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
