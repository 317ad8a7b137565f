"""The token as keyshred uses it: finds one key or stops, outlives a loss, believes no unproven "not there"."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from keyshred.envelope.format import Mechanism
from keyshred.errors import (
    ConfigInvalid,
    Conflict,
    HsmUnavailable,
    KeyAmbiguous,
    KeyMissing,
    KeyshredError,
    PinRefused,
    Retry,
    TokenBroken,
    TokenMismatch,
)
from keyshred.hsm import mechanisms, softhsm
from keyshred.hsm.ckr import CkrError, Meaning
from keyshred.hsm.interface import CHECK_BLOCK, KeyRef, TokenStatus
from keyshred.hsm.pin import PinFile
from keyshred.hsm.pkcs11_token import Key, Module, Session, TokenInfo
from keyshred.hsm.uri import TokenUri

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_PROBE: Final = "keyshred-probe"
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between two attempts to open a token that is away."""


class Pkcs11Device:
    """`interface.Device` over PKCS#11: opened at the first call, opened again after a loss.

    One per process: a token that comes back is seen only by a module that was finalised and initialised anew.
    """

    def __init__(self, uri: TokenUri, pin: PinFile, forced: Mechanism | None = None) -> None:
        self._uri = uri
        self._pin = pin
        self._forced = forced
        self._module: Module | None = None
        self._session: Session | None = None
        self._identity: TokenInfo | None = None
        self._mechanism = Mechanism.AES_GCM
        self._keys: dict[KeyRef, Key] = {}
        self._pause = 0.0
        self._not_before = 0.0
        self._last_failure: KeyshredError | None = None

    # --- what callers ask for -------------------------------------------------------------------------------------

    def status(self) -> TokenStatus:
        """See Device.status."""
        with self._opened() as session:
            token = self._identify(session)
            self._prove_works(session)
        return TokenStatus(
            label=token.label,
            serial=token.serial,
            manufacturer=token.manufacturer,
            model=token.model,
            firmware=token.firmware,
            mechanism=self._mechanism,
            software=_is_software(token),
        )

    def find(self, key_id: UUID) -> tuple[KeyRef, ...]:
        """See Device.find."""
        with self._opened() as session:
            ids = [key.cka_id() for key in session.aes_keys(str(key_id))]
            self._prove_presence(session)
        if any(len(cka_id) != 20 or cka_id[:16] != key_id.bytes or cka_id[16:] == bytes(4) for cka_id in ids):
            raise KeyAmbiguous(f"an object labelled {key_id} has a CKA_ID that is not one of this key's")
        if len(set(ids)) != len(ids):
            raise KeyAmbiguous(f"the token holds a version of key {key_id} twice")
        return tuple(KeyRef(key_id, int.from_bytes(cka_id[16:], "big")) for cka_id in sorted(ids))

    def generate(self, ref: KeyRef) -> None:
        """See Device.generate."""
        with self._opened() as session:
            if session.aes_keys(ref.label, ref.cka_id):
                raise Conflict(f"the token already holds {_name(ref)}")
            self._prove_presence(session)
            made = session.generate(self._mechanism, ref.label, ref.cka_id)
            try:
                if len(session.aes_keys(ref.label, ref.cka_id)) != 1:
                    raise Conflict(f"somebody else made {_name(ref)} at the same time")
                _check_attributes(made, ref)
                self._sync()
            except BaseException:
                # Never used, so nothing depends on it; left behind it would block the next attempt.
                with contextlib.suppress(CkrError):
                    made.destroy()
                raise

    def check_value(self, ref: KeyRef) -> bytes:
        """See Device.check_value."""
        return self._with_key(ref, lambda key: key.encrypt_block(CHECK_BLOCK))

    def wrap(self, ref: KeyRef, mechanism: Mechanism, dek: bytes, aad: bytes) -> bytes:
        """See Device.wrap."""
        return self._with_key(ref, lambda key: key.wrap(mechanism, dek, aad))

    def unwrap(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bytes:
        """See Device.unwrap."""
        return self._with_key(ref, lambda key: key.unwrap(mechanism, wrapped, aad))

    def destroy(self, key_id: UUID) -> int:
        """See Device.destroy."""
        self.close()
        destroyed: set[int] = set()
        with self._opened() as session:
            while found := session.labelled(str(key_id)):
                for thing in found:
                    if thing.handle in destroyed:
                        raise TokenBroken(f"the token still lists an object of key {key_id} that it said it destroyed")
                    thing.destroy()
                    destroyed.add(thing.handle)
            self._prove_presence(session)
            self._sync()
        return len(destroyed)

    def opens_under_any_key(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bool:
        """See Device.opens_under_any_key."""
        with self._opened() as session:
            opened = any(key.opens(mechanism, wrapped, aad) for key in session.aes_keys())
            self._prove_presence(session)
            self._prove_works(session)
        return opened

    def close(self) -> None:
        """See Device.close. A call after it opens the token anew."""
        self._keys.clear()
        module, self._module, self._session = self._module, None, None
        if module is not None:
            module.finalize()

    # --- opening and losing the token -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Session]:
        """The session. What the module raises is translated; a session that fails is given up."""
        session = self._session or self._open()
        try:
            yield session
        except CkrError as failure:
            error = failure.for_caller()
            if isinstance(error, Retry):
                self.close()
            raise error from failure
        except Retry:
            self.close()
            raise

    def _open(self) -> Session:
        if self._last_failure is not None and time.monotonic() < self._not_before:
            raise type(self._last_failure)(*self._last_failure.args)
        try:
            session = self._log_in()
            self._mechanism = self._negotiate(session)
        except (CkrError, KeyshredError) as failure:
            self.close()
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._not_before = time.monotonic() + self._pause
            self._last_failure = failure.for_caller() if isinstance(failure, CkrError) else failure
            raise self._last_failure from (failure if isinstance(failure, CkrError) else failure.__cause__)
        self._session, self._pause, self._last_failure = session, 0.0, None
        _log.info("token opened, mechanism %s", self._mechanism)
        return session

    def _negotiate(self, session: Session) -> Mechanism:
        try:
            return mechanisms.negotiate(partial(_trial_key, session), self._forced)
        except ConfigInvalid:
            # A token that went away meanwhile has proven nothing about itself: say that instead.
            session.token_info()
            raise

    def _log_in(self) -> Session:
        self._module = Module(self._uri.module_path)
        identity, token = self._select(self._module)
        if identity.pin_in_danger:
            raise PinRefused("the token's PIN is locked, or one wrong try away from it: a person must log in first")
        with self._pin.offer() as pin:
            try:
                session = Session(token, pin)
            except CkrError as failure:
                raise failure.for_caller() from failure
        self._identity = identity
        return session

    def _select(self, module: Module) -> tuple[TokenInfo, object]:
        """The one token that the URI means, and no other than before."""
        tokens = module.tokens()
        matching = [(info, token) for info, token in tokens if _matches(self._uri, info)]
        if len(matching) > 1:
            raise TokenMismatch(f"{len(matching)} tokens match the token URI: add serial=")
        if not matching:
            if any(self._uri.token == info.label for info, _ in tokens):
                raise TokenMismatch("the token that the URI names is there, but differs in another attribute")
            raise HsmUnavailable("no token that matches the token URI is there")
        if self._identity is not None and matching[0][0].serial != self._identity.serial:
            raise TokenMismatch("the token was exchanged for another one")
        return matching[0]

    # --- proving that an answer can be believed -------------------------------------------------------------------

    def _identify(self, session: Session) -> TokenInfo:
        token = session.token_info()
        if self._identity is None or token.serial != self._identity.serial:
            raise TokenMismatch("another token is in the slot")
        return token

    def _prove_presence(self, session: Session) -> None:
        """Before "there is no such object" is believed: the token is there, whole, and we are logged in.

        A session that lost its login finds no private object, and SoftHSM none whose file is away, both without an
        error. Raises HsmUnavailable.
        """
        token = self._identify(session)
        self._probe(session)
        if _is_software(token):
            # A token whose files went away while SoftHSM read them passes for whole, with keys missing.
            shown = session.count()
            if shown != _on_disk(softhsm.object_count, token.serial):
                raise HsmUnavailable("the token does not show all of its objects")

    def _prove_works(self, session: Session) -> None:
        if not self._probe(session).works(self._mechanism):
            raise TokenBroken("the token gave back another DEK than it was given")

    def _probe(self, session: Session) -> Key:
        """The session key made at login: private, so that only a logged-in session finds it."""
        found = session.aes_keys(_PROBE, on_token=False)
        if len(found) != 1:
            raise HsmUnavailable("the session is no longer logged in")
        return found[0]

    # --- finding keys ---------------------------------------------------------------------------------------------

    def _with_key(self, ref: KeyRef, use: Callable[[Key], _T]) -> _T:
        with self._opened() as session:
            try:
                return use(self._keys.get(ref) or self._look_up(session, ref))
            except CkrError as failure:
                if failure.meaning is not Meaning.STALE:
                    raise
                # The object went away under its handle: another process destroyed it, or the token is away.
                self._keys.pop(ref, None)
                return use(self._look_up(session, ref))

    def _look_up(self, session: Session, ref: KeyRef) -> Key:
        found = session.aes_keys(ref.label, ref.cka_id)
        if not found:
            self._prove_presence(session)
            raise KeyMissing(f"the token does not hold {_name(ref)}")
        if len(found) > 1:
            raise KeyAmbiguous(f"the token holds {_name(ref)} {len(found)} times")
        _check_attributes(found[0], ref)
        self._keys[ref] = found[0]
        return found[0]

    def _sync(self) -> None:
        if self._identity is not None and _is_software(self._identity):
            _on_disk(softhsm.sync, self._identity.serial)


def _trial_key(session: Session, mechanism: Mechanism) -> Key:
    """A session key to negotiate with. The last one stays: it is the probe."""
    for former in session.aes_keys(_PROBE, on_token=False):
        former.destroy()
    return session.generate(mechanism, _PROBE, on_token=False)


def _on_disk(look: Callable[[str], _T], serial: str) -> _T:
    try:
        return look(serial)
    except OSError as failure:
        raise HsmUnavailable(f"the token's files: {failure.strerror or failure}") from None


def _check_attributes(key: Key, ref: KeyRef) -> None:
    if faults := key.faults():
        raise TokenBroken(f"{_name(ref)} has attributes that a root key must not have: {', '.join(faults)}")


def _matches(uri: TokenUri, token: TokenInfo) -> bool:
    asked = (
        (uri.token, token.label),
        (uri.serial, token.serial),
        (uri.manufacturer, token.manufacturer),
        (uri.model, token.model),
        (uri.slot_id, token.slot_id),
        (uri.slot_description, token.slot_description),
        (uri.slot_manufacturer, token.slot_manufacturer),
    )
    return all(wanted in (None, actual) for wanted, actual in asked)


def _is_software(token: TokenInfo) -> bool:
    return softhsm.is_softhsm(token.manufacturer, token.model)


def _name(ref: KeyRef) -> str:
    return f"version {ref.version} of key {ref.key_id}"
