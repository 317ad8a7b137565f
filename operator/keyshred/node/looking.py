"""Asks about the Secrets of a volume: what each holds now, and what must go because its key is destroyed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from keyshred.errors import KeyGone, KeyshredError, NotFound, Retry
from keyshred.node.holdings import Holding, Volume
from keyshred.node.unsealing import Opened
from keyshred.policy import volumes
from keyshred.policy.volumes import Content, Files


class Opener(Protocol):
    """The webhook, as a volume sees it (Unsealing)."""

    async def unseal(self, namespace: str, name: str, token: str, etag: str = "", cleared: str = "") -> Opened:
        """The values of a Secret."""

    async def is_destroyed(self, key_id: str, token: str) -> bool:
        """Whether that key is."""


@dataclass(frozen=True, slots=True)
class Asking:
    """For whom: the pod's namespace and token, and the volume's name in it."""

    namespace: str
    token: str = field(repr=False)
    volume: str


@dataclass(slots=True)
class Seen:
    """What there is now."""

    found: dict[str, Opened | None] = field(default_factory=dict)
    """By Secret; None: there is none."""
    gone: set[str] = field(default_factory=set)
    """Secrets whose files must go, and stay away."""
    replaced: set[str] = field(default_factory=set)
    """Those with new values, of whose earlier ones the key is destroyed."""
    errors: list[KeyshredError] = field(default_factory=list)
    """Why the volume cannot be as it should be."""

    @property
    def etags(self) -> dict[str, str | None]:
        """By Secret, as a volume remembers them."""
        return {n: o.etag if o is not None else None for n, o in self.found.items()}


async def look(opener: Opener, asking: Asking, volume: Volume, published: bool) -> Seen:
    """Asks about each Secret once, and about keys of files that are not what is stored now.

    `published`: containers may have the files. Then what must go is looked for to the end, whatever else is refused;
    else the first error is raised.
    """
    seen = Seen()
    for name in sorted(volumes.secrets(volume.content)):
        cleared = asking.volume if volume.reports(name) else ""
        etag = volume.etags.get(name) or ""
        error: KeyshredError | None = None
        try:
            seen.found[name] = await opener.unseal(asking.namespace, name, asking.token, etag, cleared)
        except NotFound:
            if _is_required(volume.content, name):
                error = NotFound(f"Secret {name} does not exist")
            seen.found[name] = None
        except KeyGone as destroyed:
            error = destroyed
        except KeyshredError as other:
            error = other
        if error and not published:
            raise error
        if isinstance(error, KeyGone):
            seen.gone.add(name)
            continue
        if isinstance(error, Retry):
            seen.errors.append(error)
            continue
        now = seen.found.get(name)
        known = volume.held.get(name, Holding()).key_ids
        earlier = [k for k in known if now is None or k != now.key_id]
        destroyed_too = await _any_destroyed(opener, earlier, asking.token)
        if destroyed_too and now is None:
            # The Secret was deleted, or nobody may have it any more: what it held must go all the same.
            seen.gone.add(name)
            seen.found.pop(name, None)
        elif destroyed_too:
            seen.replaced.add(name)
        elif error:
            seen.errors.append(error)
    return seen


async def read_unchanged(opener: Opener, asking: Asking, seen: Seen) -> None:
    """Asks for the values of those that came without, since nothing was new of them."""
    for name, opened in seen.found.items():
        if opened is not None and opened.values is None:
            seen.found[name] = await opener.unseal(asking.namespace, name, asking.token)


async def _any_destroyed(opener: Opener, key_ids: Iterable[str], token: str) -> bool:
    for key_id in key_ids:
        try:
            if await opener.is_destroyed(key_id, token):
                return True
        except KeyshredError:
            continue  # asked again at the next look
    return False


def _is_required(content: Content, name: str) -> bool:
    parts = content.sources if isinstance(content, Files) else content.values
    return any(p.secret == name and not p.optional for p in parts)
