"""Publishes volumes: what a pod's volume is to hold, opened with that pod's token, in files of memory."""

import asyncio
import errno
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from keyshred.errors import KeyshredError, Malformed, NotReady, Refused
from keyshred.names import AUDIENCE
from keyshred.node import atomic_writer, copies, mounts, payload
from keyshred.node.holdings import Holding, Holdings, Volume
from keyshred.node.looking import Asking, Opener, Seen, look, read_unchanged
from keyshred.node.threads import to_the_end
from keyshred.policy import volumes
from keyshred.policy.volumes import Content, Files, Source

log = logging.getLogger(__name__)

TOKENS: Final = "csi.storage.k8s.io/serviceAccount.tokens"
_POD: Final = "csi.storage.k8s.io/pod."
_EPHEMERAL: Final = "csi.storage.k8s.io/ephemeral"
_AT_A_TIME: Final = 16
"""Volumes whose values are in this process at once: each Secret has up to 1 MiB."""
_OF_A_NAMESPACE: Final = 6
"""The same of one namespace, so that no tenant keeps the others' pods waiting."""
_WIDE: Final = 8
"""Volumes of more Secrets than these have their values in this process one at a time."""
_PATIENCE: Final = 60.0
"""Seconds for one call; the kubelet gives up after 120 (pkg/volume/csi, csiTimeout), and other volumes wait."""
_UNMOUNTS_AT_A_TIME: Final = 4
"""In threads of their own: pods must be able to go, whatever is being written."""
_SIZE_OF_SOURCE: Final = 40 * 1024 * 1024
"""Bytes that one Secret can take at most, twice over while it changes: 1 MiB in 4,096 files of 4 KiB pages. Memory is
used only as it is written."""
_SIZE: Final = 256 * 1024 * 1024
"""Bytes that a volume can take at most: items can name one value under any number of paths."""


@dataclass(frozen=True, slots=True)
class Request:
    """One publish call of the kubelet."""

    target: Path
    context: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    group: int | None
    """The pod's fsGroup."""


class Publisher:
    """Of one node. What it knows of volumes is lost with the process, but for `Holdings`: then each is opened anew."""

    def __init__(self, opener: Opener, kubelet_dir: Path, holdings: Holdings) -> None:
        self._opener = opener
        self._pods = kubelet_dir / "pods"
        self._holdings = holdings
        self._volumes: dict[Path, Volume] = {}
        # Each lives as long as somebody holds it, or waits for it.
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._slots_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._wide = asyncio.Semaphore(1)
        self._unmounts = ThreadPoolExecutor(_UNMOUNTS_AT_A_TIME, "unmount")

    @property
    def published(self) -> int:
        """Volumes that this process has published."""
        return len(self._volumes)

    async def publish(self, request: Request) -> None:
        """Publishes, or brings up to date what is published; where nothing changed, that is one call for each Secret.

        Raises what Unsealing.unseal raises, Malformed for attributes that are not ours, Refused for a value that no
        environment can carry. What was published before stays as it is then, less the files of destroyed keys; what
        was not is not mounted.
        """
        content = volumes.parse(request.context)
        asking = Asking(self._check(request), _token(request), _name(request))
        try:
            async with asyncio.timeout(_PATIENCE), self._lock(request.target), self._slot(asking.namespace, content):
                await self._bring(request, content, asking)
        except TimeoutError:
            raise NotReady(f"the volume was not filled within {_PATIENCE:.0f} s: it is tried again") from None

    async def unpublish(self, target: Path) -> None:
        """Takes the volume away; one that is not there is fine."""
        self._inside(target)
        async with self._lock(target):
            await to_the_end(self._unmounts, self._unmount, target)
            self._volumes.pop(target, None)

    async def _bring(self, request: Request, content: Content, asking: Asking) -> None:
        known = self._volumes.get(request.target)
        mounted, written = await to_the_end(None, _state, request.target)
        if not written or known is None or (known.content, known.group) != (content, request.group):
            known = Volume(content, request.group)
            if written:
                await to_the_end(None, self._holdings.load, request.target, known)
        seen = await look(self._opener, asking, known, written)
        if known.etags == seen.etags and known.gone == seen.gone and not seen.replaced and not seen.errors:
            return
        try:
            files = await self._files(content, asking, seen)
        except KeyshredError:
            # What is refused must not keep values of a destroyed key in the other files.
            await self._only_empty(request, known, seen)
            raise
        try:
            await to_the_end(None, self._write, request, known, seen, files)
        except asyncio.CancelledError:
            if not mounted:
                # The kubelet has given up: whether it will ask for this to be unmounted is its to know.
                await to_the_end(self._unmounts, self._unmount, request.target)
            raise
        self._volumes[request.target] = known
        await self._tell(request, known, seen, asking)

    async def _files(self, content: Content, asking: Asking, seen: Seen) -> dict[str, payload.File]:
        if seen.errors:
            raise seen.errors[0]
        await read_unchanged(self._opener, asking, seen)
        values = {n: o.values if o is not None else None for n, o in seen.found.items()}
        return payload.build(_without(content, seen.gone), values)

    async def _only_empty(self, request: Request, known: Volume, seen: Seen) -> None:
        changed = {n for n in seen.replaced if known.etags and known.etags.get(n) != seen.etags.get(n)}
        doomed = (seen.gone - known.gone) | changed
        paths = frozenset[str]().union(*(known.held[n].paths for n in doomed if n in known.held))
        if paths:
            await to_the_end(None, atomic_writer.empty_paths, request.target, paths)
            await to_the_end(None, _follow, known.content, request.target, {}, paths)
            _say_emptied(request, doomed)

    def _write(self, request: Request, known: Volume, seen: Seen, files: dict[str, payload.File]) -> None:
        """Writes files, and what is known of them. What was not mounted before is not after an error either."""
        target, content = request.target, known.content
        fresh = not mounts.is_mounted(target)
        if fresh:
            size = min(_SIZE_OF_SOURCE * max(1, len(volumes.secrets(content))), _SIZE)
            mounts.mount(target, size)
        try:
            if seen.gone - known.gone or seen.replaced:
                # A container that mounted one of them by subPath keeps its inode.
                atomic_writer.empty(target, files, also_former=frozenset(seen.replaced))
            nested = content.nested if isinstance(content, Files) else ()
            atomic_writer.write(target, files, known.group, nested)
            doomed = (known.held[n].paths for n in seen.gone if n in known.held)
            _follow(content, target, files, frozenset[str]().union(*doomed))
        except BaseException as error:
            if fresh:
                self._unmount(target)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise Refused(
                    f"the files of this volume take more than the {_SIZE >> 20} MiB that one may have: name fewer"
                ) from None
            raise
        held = _held(known, seen, files)
        if held != known.held or seen.gone != known.gone:
            self._save(target, held, seen.gone)
        known.etags, known.held = seen.etags, held

    def _save(self, target: Path, held: Mapping[str, Holding], gone: set[str]) -> None:
        try:
            self._holdings.save(target, held, gone)
        except OSError as error:
            # The node's disk may be full, which is no reason to keep a pod from its files.
            log.warning("what %s holds is known to this process alone: %s", target, error.strerror)

    def _unmount(self, target: Path) -> None:
        mounts.unmount(target)
        self._holdings.remove(target)

    async def _tell(self, request: Request, known: Volume, seen: Seen, asking: Asking) -> None:
        emptied = seen.gone - known.gone
        known.gone = frozenset(seen.gone)
        if emptied:
            _say_emptied(request, emptied)
        for name in emptied:
            if known.reports(name):
                # The kubelet's next look may come too late to be counted; it says so again, lest this one was lost.
                with suppress(KeyshredError):
                    await self._opener.unseal(asking.namespace, name, asking.token, "", asking.volume)

    def _lock(self, target: Path) -> asyncio.Lock:
        return self._locks.setdefault(target, asyncio.Lock())

    @asynccontextmanager
    async def _slot(self, namespace: str, content: Content) -> AsyncIterator[None]:
        of_namespace = self._slots_of.setdefault(namespace, asyncio.Semaphore(_OF_A_NAMESPACE))
        async with of_namespace:
            if len(volumes.secrets(content)) > _WIDE:
                async with self._wide, self._slots:
                    yield
            else:
                async with self._slots:
                    yield

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


def _follow(content: Content, target: Path, files: Mapping[str, payload.File], doomed: Set[str]) -> None:
    """Has copies for environments follow the volume that they came from."""
    if isinstance(content, volumes.Variables):
        copies.empty(copies.folder(target), doomed)
        try:
            copies.renew(copies.folder(target), files)
        except OSError as error:
            log.warning("%s: a container that starts again has values of before: %s", target, error.strerror)


def _state(target: Path) -> tuple[bool, bool]:
    """Whether something is mounted there, and whether it was filled."""
    mounted = mounts.is_mounted(target)
    return mounted, mounted and atomic_writer.is_written(target)


def _without(content: Content, gone: set[str]) -> Content:
    """The content with destroyed Secrets left out: what else is in the volume stays."""
    if isinstance(content, Files):
        sources = tuple(Source(s.secret, (), True) if s.secret in gone else s for s in content.sources)
        return replace(content, sources=sources)
    return volumes.Variables(tuple(v for v in content.values if v.secret not in gone))


def _held(known: Volume, seen: Seen, files: Mapping[str, payload.File]) -> dict[str, Holding]:
    """What the volume holds with these files. Of Secrets that are not there any more, the keys are still known."""
    paths = defaultdict[str, set[str]](set)
    for path, file in files.items():
        paths[file.secret].add(path)
    held = {}
    for name in sorted(volumes.secrets(known.content)):
        # Of what was replaced, the values under earlier keys are gone now.
        before = Holding() if name in seen.replaced else known.held.get(name, Holding())
        opened = seen.found.get(name)
        if opened is not None or before.key_ids:
            held[name] = before.after(frozenset(paths[name]), opened.key_id if opened else "")
    return held


def _say_emptied(request: Request, secrets: set[str]) -> None:
    log.warning(
        "the files of Secrets %s of pod %s/%s are gone: their key is destroyed",
        ", ".join(sorted(secrets)),
        request.context[f"{_POD}namespace"],
        request.context[f"{_POD}name"],
    )


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
