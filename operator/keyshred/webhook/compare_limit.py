"""How often it may be learned that a guess at a sealed value was wrong."""

from collections import deque
from collections.abc import Callable
from typing import Final

_HOUR: Final = 3600.0
_MAX_TRACKED: Final = 20_000
_USERS: Final = 10
"""All users together get this many times what one gets, for one Secret."""


class CompareLimit:
    """Counts misses: plaintext that a user sent for a sealed value and that was not equal to it.

    Putting the old bytes back tells the sender that the guess was right, so a user gets `misses` wrong ones an hour for
    one Secret; after that everything is sealed fresh, right or wrong. Counted per user *and Secret*: a deployment tool
    that really changes many Secrets would otherwise lose the comparison for all of them. And per Secret over all users:
    a forged review names any user that it likes.
    """

    def __init__(self, misses: int, clock: Callable[[], float]) -> None:
        self._allowed = misses
        self._clock = clock
        self._misses: dict[tuple[str, ...], deque[float]] = {}

    def allows(self, user: str, namespace: str, name: str) -> bool:
        """Whether one more comparison may be made."""
        of_user, of_all = self._recent(namespace, name, user), self._recent(namespace, name)
        return of_user < self._allowed and of_all < _USERS * self._allowed

    def miss(self, user: str, namespace: str, name: str) -> None:
        """Notes a wrong one."""
        for key in ((namespace, name, user), (namespace, name)):
            if key not in self._misses and len(self._misses) >= _MAX_TRACKED:
                # The oldest entry goes: memory is bounded, and flooding this needs as many Secrets that one may write.
                del self._misses[next(iter(self._misses))]
            self._misses.setdefault(key, deque(maxlen=_USERS * self._allowed or 1)).append(self._clock())

    def _recent(self, *key: str) -> int:
        missed = self._misses.get(key, deque())
        while missed and missed[0] < self._clock() - _HOUR:
            missed.popleft()
        return len(missed)
