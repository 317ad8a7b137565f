"""Every error that keyshred raises on purpose.

    KeyshredError
    ├── Retry                 the cause passes: HTTP 503, admission "try again", the controller backs off
    │   ├── HsmUnavailable    the token or its session is away, or did not answer within the deadline
    │   ├── HsmBusy           the queue before the token is full
    │   ├── PolicyNotFresh    the policy that would decide is not confirmed recently enough
    │   ├── KubeUnavailable   the API server did not answer, or answered 5xx or 429
    │   ├── NotReady          this process starts, stops, or has a worker that does not work
    │   └── WatchExpired      a list or watch starts from a version that the API server no longer has: list anew
    ├── Deny                  this request can never succeed as it is; others go on
    │   ├── Malformed         input that does not parse: a review, a body, a token URI, a spec
    │   │   ├── MalformedEnvelope   the annotation is not a canonical envelope
    │   │   └── MalformedValue      a sealed value has not the shape of one
    │   ├── CannotOpen        tampered, wrong key or wrong context: one blank answer for all three
    │   ├── NotAuthenticated  no bearer token, or one that the API server does not accept for our audience
    │   ├── Refused           a rule says no: the message names the object, the cause and the next step
    │   │   ├── KeyProtected  the RootKey is protected, and Secrets depend on it
    │   │   └── NotAllowed    the caller may not unseal this Secret; why is for the audit line alone
    │   ├── KeyNotUsable      the root key's state forbids the action
    │   ├── KeyGone           the root key is destroyed: nothing opens under it, for ever
    │   ├── NotSupported      this token cannot do what was asked of it
    │   ├── NotFound          an object that the request names does not exist
    │   └── Conflict          somebody else wrote first: read again, then decide again
    └── Stop                  going on could do harm: a person must look
        ├── ConfigInvalid     settings that contradict each other or cannot be read
        ├── PinRefused        the token refused the PIN; it is never tried again
        ├── TokenMismatch     the token is not the one that was asked for
        ├── KeyMissing        the token no longer holds a key that it should hold
        ├── KeyAmbiguous      a look-up found more than one object
        ├── TokenBroken       the token gives wrong answers or none that make sense
        ├── KeyClaimed        another cluster claims the key that is to be destroyed
        ├── LedgerBroken      the chain of a KeyRecord's transitions does not hold, or the KeyRecord is gone
        └── LedgerBehindToken the token knows a later transition than the KeyRecord

A message is written for the person who reads it in `kubectl`, so it holds no value, key, PIN or bearer token. What went
wrong underneath (a CKR code, an HTTP status) belongs in `__cause__` and in the log.
"""


class KeyshredError(Exception):
    """Root of the tree; never raised itself."""


class Retry(KeyshredError):
    """The cause passes by itself: try again."""


class HsmUnavailable(Retry):
    """The token or its session is away, or did not answer within the deadline."""


class HsmBusy(Retry):
    """The bounded queue before the token is full."""


class PolicyNotFresh(Retry):
    """The policy that would decide is not confirmed recently enough."""


class KubeUnavailable(Retry):
    """The API server did not answer, or answered 5xx or 429."""


class NotReady(Retry):
    """This process starts, stops, or has a worker that does not work."""


class WatchExpired(Retry):
    """A list or watch starts from a version that the API server no longer has."""


class Deny(KeyshredError):
    """This request can never succeed as it is."""


class Malformed(Deny):
    """Input that does not parse."""


class MalformedEnvelope(Malformed):
    """The annotation is not a canonical envelope (docs/envelope-format.md)."""


class MalformedValue(Malformed):
    """A sealed value has not the shape of one (docs/envelope-format.md)."""


class CannotOpen(Deny):
    """Tampered, wrong key or wrong context. Blank on purpose: telling them apart would make an oracle."""

    def __init__(self) -> None:
        super().__init__("cannot open")


class NotAuthenticated(Deny):
    """No bearer token, or one that the API server does not accept for our audience."""


class Refused(Deny):
    """A rule says no. Where the API server said it: the fields at fault, and keyshred's own reason if it was ours."""

    def __init__(self, message: str, *, fields: frozenset[str] = frozenset(), reason: str = "") -> None:
        super().__init__(message)
        self.fields = fields
        self.reason = reason


class KeyProtected(Refused):
    """The RootKey is protected, and Secrets depend on it."""


class NotAllowed(Refused):
    """The caller may not unseal this Secret. `verdict` says why, for the audit line; the caller is told less."""

    def __init__(self, verdict: str) -> None:
        super().__init__("not authorised to unseal this Secret")
        self.verdict = verdict


class KeyNotUsable(Deny):
    """The root key's state forbids the action."""


class KeyGone(Deny):
    """The root key is destroyed."""


class NotSupported(Deny):
    """This token cannot do what was asked of it."""


class NotFound(Deny):
    """An object that the request names does not exist."""


class Conflict(Deny):
    """Somebody else wrote first."""


class Stop(KeyshredError):
    """Going on could do harm: a person must look."""


class ConfigInvalid(Stop):
    """Settings that contradict each other or cannot be read."""


class PinRefused(Stop):
    """The token refused the PIN. A second wrong try could lock it, so there is none."""


class TokenMismatch(Stop):
    """The token is not the one that the URI asks for."""


class KeyMissing(Stop):
    """The token no longer holds a key that it should hold."""


class KeyAmbiguous(Stop):
    """A look-up found more than one object where there must be exactly one."""


class TokenBroken(Stop):
    """The token gives wrong answers, or none that make sense."""


class KeyClaimed(Stop):
    """Another cluster claims the key that is to be destroyed."""


class LedgerBroken(Stop):
    """The chain of a KeyRecord's transitions does not hold, or the KeyRecord is gone: somebody changed it."""


class LedgerBehindToken(Stop):
    """The token knows a later transition than the KeyRecord. `decided`: and the key's destruction, too."""

    def __init__(self, message: str, *, decided: bool = False) -> None:
        super().__init__(message)
        self.decided = decided
