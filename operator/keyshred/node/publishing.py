"""Publishes volumes: what a pod's volume is to hold, opened with that pod's token, in files of memory."""

import asyncio
import errno
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from keyshred.errors import KeyGone, KeyshredError, Malformed, NotFound, Refused
from keyshred.names import AUDIENCE
from keyshred.node import atomic_writer, mounts, payload
from keyshred.node.unsealing import Opened
from keyshred.policy import volumes
from keyshred.policy.volumes import Content, Files, Source

log = logging.getLogger(__name__)

TOKENS: Final = "csi.storage.k8s.io/serviceAccount.tokens"
_POD: Final = "csi.storage.k8s.io/pod."
_EPHEMERAL: Final = "csi.storage.k8s.io/ephemeral"
_AT_A_TIME: Final = 16
"""Volumes whose values are in this process at once: each Secret has up to 1 MiB."""
_SIZE_OF_SOURCE: Final = 40 * 1024 * 1024
"""Bytes that one Secret can take at most, twice over while it changes: 1 MiB in 4,096 files of 4 KiB pages. Memory is
used only as it is written."""
_SIZE: Final = 256 * 1024 * 1024
"""Bytes that a volume can take at most: items can name one value under any number of paths."""

Unseal = Callable[[str, str, str, str, str], Awaitable[Opened]]
"""Namespace, name, token, ETag, and the volume that was cleared of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One publish call of the kubelet."""

    target: Path
    context: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    group: int | None
    """The pod's fsGroup."""


@dataclass(slots=True)
class _Volume:
    """What a published volume holds, without its values."""

    content: Content
    group: int | None
    etags: dict[str, str | None] = field(default_factory=dict)
    """By Secret; None: it was not there."""
    gone: set[str] = field(default_factory=set)
    """Secrets whose key is destroyed: their files were emptied and removed."""

    def reports(self, secret: str) -> bool:
        """Whether calls for that Secret say so. Not of variables: containers hold copies, which nobody clears."""
        return secret in self.gone and isinstance(self.content, Files)


class Publisher:
    """Of one node. What it knows of volumes is lost with the process: then each is opened once more."""

    def __init__(self, unseal: Unseal, kubelet_dir: Path) -> None:
        self._unseal = unseal
        self._pods = kubelet_dir / "pods"
        self._volumes: dict[Path, _Volume] = {}
        self._locks: dict[Path, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    @property
    def published(self) -> int:
        """Volumes that this process has published."""
        return len(self._volumes)

    async def publish(self, request: Request) -> None:
        """Publishes, or brings up to date what is published; where nothing changed, that is one call for each Secret.

        Raises what Unsealing.unseal raises, Malformed for attributes that are not ours, Refused for a value that no
        environment can carry. What was published before stays as it is then.
        """
        content = volumes.parse(request.context)
        namespace, token = self._check(request), _token(request)
        async with self._locks.setdefault(request.target, asyncio.Lock()), self._slots:
            known = self._volumes.get(request.target)
            mounted = await asyncio.to_thread(mounts.is_mounted, request.target)
            if not mounted or known is None or (known.content, known.group) != (content, request.group):
                known = _Volume(content, request.group)
            await self._bring(request, known, namespace, token, mounted)

    async def _bring(self, request: Request, known: _Volume, namespace: str, token: str, mounted: bool) -> None:
        found: dict[str, Opened | None] = {}
        gone: set[str] = set()
        needed = sorted(volumes.secrets(known.content))
        for name in needed:
            cleared = _name(request) if known.reports(name) else ""
            try:
                found[name] = await self._unseal(namespace, name, token, known.etags.get(name) or "", cleared)
            except NotFound:
                _require(known.content, name)
                found[name] = None
            except KeyGone:
                if not mounted:
                    raise
                gone.add(name)
        etags = {n: o.etag if o is not None else None for n, o in found.items()}
        if known.etags == etags and known.gone == gone:
            return
        # What is unchanged came without its values.
        for name, opened in found.items():
            if opened is not None and opened.values is None:
                found[name] = await self._unseal(namespace, name, token, "", "")
        values = {n: o.values if o is not None else None for n, o in found.items()}
        files = payload.build(_without(known.content, gone), values)
        emptied = gone - known.gone
        await asyncio.to_thread(self._write, request, known, files, bool(emptied))
        if emptied:
            log.warning(
                "the files of Secrets %s of pod %s/%s are gone: their key is destroyed",
                ", ".join(sorted(emptied)),
                namespace,
                request.context[f"{_POD}name"],
            )
        known.etags = {n: o.etag if o is not None else None for n, o in found.items()}
        known.gone = gone
        self._volumes[request.target] = known
        for name in emptied:
            if known.reports(name):
                # The kubelet's next look may come too late to be counted; it says so again, lest this one was lost.
                with suppress(KeyshredError):
                    await self._unseal(namespace, name, token, "", _name(request))

    def _write(self, request: Request, known: _Volume, files: dict[str, payload.File], emptied: bool) -> None:
        if not mounts.is_mounted(request.target):
            size = _SIZE_OF_SOURCE * max(1, len(volumes.secrets(known.content)))
            mounts.mount(request.target, min(size, _SIZE))
        if emptied:
            # A container that mounted one of them by subPath keeps its inode.
            atomic_writer.empty(request.target, keep=files)
        try:
            atomic_writer.write(request.target, files, known.group)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise Refused(
                    f"the files of this volume take more than the {_SIZE >> 20} MiB that one may have: name fewer"
                ) from None
            raise
        # As the kubelet has them (k8s pkg/volume/util/nested_volumes.go): containers see the volume read-only.
        for nested in known.content.nested if isinstance(known.content, Files) else ():
            (request.target / nested).mkdir(0o755, parents=True, exist_ok=True)

    async def unpublish(self, target: Path) -> None:
        """Takes the volume away; one that is not there is fine."""
        self._inside(target)
        async with self._locks.setdefault(target, asyncio.Lock()):
            await asyncio.to_thread(mounts.unmount, target)
            self._volumes.pop(target, None)
        self._locks.pop(target, None)

    def _check(self, request: Request) -> str:
        """The pod's namespace. Raises Malformed for a call that no kubelet makes for an inline volume."""
        context = request.context
        self._inside(request.target)
        uid = context.get(f"{_POD}uid", "")
        if context.get(_EPHEMERAL) != "true" or not uid or request.target.relative_to(self._pods).parts[0] != uid:
            raise Malformed(f"{volumes.DRIVER} serves inline volumes of pods alone")
        return context[f"{_POD}namespace"]

    def _inside(self, target: Path) -> None:
        if not target.is_relative_to(self._pods) or ".." in target.parts or target.name != "mount":
            raise Malformed(f"the target is no volume of a pod below {self._pods}")


def _require(content: Content, name: str) -> None:
    """Raises NotFound where the volume cannot be without that Secret."""
    parts = content.sources if isinstance(content, Files) else content.values
    if any(p.secret == name and not p.optional for p in parts):
        raise NotFound(f"Secret {name} does not exist")


def _without(content: Content, gone: set[str]) -> Content:
    """The content with destroyed Secrets left out: what else is in the volume stays."""
    if isinstance(content, Files):
        sources = tuple(Source(s.secret, (), True) if s.secret in gone else s for s in content.sources)
        return replace(content, sources=sources)
    return volumes.Variables(tuple(v for v in content.values if v.secret not in gone))


def _name(request: Request) -> str:
    """The volume's, in the pod (Kubernetes, pkg/volume/csi/csi_mounter.go, getTargetPath)."""
    return request.target.parent.name


def _token(request: Request) -> str:
    # Kubelets before 1.35 put it where the attributes are.
    tokens = request.secrets.get(TOKENS) or request.context.get(TOKENS)
    try:
        return str(json.loads(tokens or "")[AUDIENCE]["token"])
    except (ValueError, KeyError, TypeError):
        raise Malformed(
            f"the kubelet sent no token for the audience {AUDIENCE}: is the CSIDriver {volumes.DRIVER} as the chart "
            "has it?"
        ) from None
