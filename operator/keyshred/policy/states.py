"""The states of a root key (NIST SP 800-57 part 1, section 7) and what each allows."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from keyshred.names import KeyState


class Action(StrEnum):
    """What one may want of a root key."""

    SEAL = "seal"
    UNSEAL = "unseal"
    """Comparing plaintext with a sealed value counts as one."""
    ROTATE = "rotate"
    DELETE = "delete"


_ALLOWED: Final = {
    Action.SEAL: frozenset({KeyState.ACTIVE}),
    Action.UNSEAL: frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED}),
    Action.ROTATE: frozenset({KeyState.ACTIVE}),
    Action.DELETE: frozenset({KeyState.PRE_ACTIVATION, KeyState.ACTIVE, KeyState.SUSPENDED, KeyState.DEACTIVATED}),
}

FINAL: Final = frozenset({KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED})
"""States that no wish in a spec leads out of."""


def allows(state: KeyState, action: Action) -> bool:
    """The table of the contract's section 1."""
    return state in _ALLOWED[action]


def effective(
    recorded: KeyState,
    *,
    deleting: bool,
    suspended: bool,
    activation: datetime | None,
    expiration: datetime | None,
    now: datetime,
) -> KeyState:
    """The state that counts now: what the controller recorded, narrowed by what the spec and the clock say.

    A spec can narrow at once, before the controller has looked; only the controller's record says that there is a key.
    """
    if recorded in FINAL:
        return recorded
    if deleting:
        return KeyState.PENDING_DESTRUCTION
    if recorded is KeyState.PRE_ACTIVATION:
        return recorded
    if suspended:
        return KeyState.SUSPENDED
    if expiration is not None and now >= expiration:
        return KeyState.DEACTIVATED
    if activation is not None and now < activation:
        return KeyState.PRE_ACTIVATION
    return KeyState.ACTIVE
