"""Container images of one layer, made of files: what a registry would be asked for."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cluster import paths, versions

PAUSE: Final = "registry.k8s.io/pause:3.10"
BUSYBOX: Final = "docker.io/library/busybox:1"
COREDNS: Final = f"registry.k8s.io/coredns/coredns:{versions.COREDNS}"
_APPLETS: Final = (
    *("sh", "cat", "ls", "sleep", "wget", "nslookup", "stat", "id", "touch", "env", "tail"),
    *("find", "sort", "sha256sum", "readlink", "httpd", "printf", "tr"),
)


def write(target: Path, name: str, files: Mapping[str, Path], entrypoint: Sequence[str]) -> None:
    """A docker-archive with one image: path in it to a file of this machine, world-executable.

    Links of busybox's applets come with its binary.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for path, file in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = file.stat().st_size, 0o755
            with file.open("rb") as opened:
                tar.addfile(entry, opened)
        for applet in _APPLETS if "bin/busybox" in files else ():
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    blob = layer.getvalue()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(blob).hexdigest()}"]},
        }
    ).encode()
    image = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": image, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as tar:
        for path, content in ((image, config), ("layer.tar", blob), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def system(folder: Path) -> list[Path]:
    """Archives of what a node needs before anything else runs: pause, busybox, CoreDNS."""
    busybox = {"bin/busybox": Path(shutil.which("busybox") or "/bin/busybox")}
    wanted = (
        # A sandbox does nothing; here it does so by busybox.
        (PAUSE, busybox, ["/bin/tail", "-f", "/dev/null"]),
        (BUSYBOX, busybox, ["/bin/sh"]),
        (COREDNS, {"coredns": paths.binaries() / "coredns"}, ["/coredns"]),
    )
    archives = []
    for number, (name, files, entrypoint) in enumerate(wanted):
        archive = folder / f"image-{number}.tar"
        write(archive, name, files, entrypoint)
        archives.append(archive)
    return archives
