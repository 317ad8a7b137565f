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
    NotSupported,
    Retry,
    TokenBroken,
    TokenMismatch,
)
from keyshred.hsm import data_objects, mechanisms, softhsm, survey
from keyshred.hsm.ckr import CkrError, Meaning
from keyshred.hsm.interface import CHECK_BLOCK, KeyRef, Survey, TokenStatus
from keyshred.hsm.login import log_in
from keyshred.hsm.pin import PinFile
from keyshred.hsm.pkcs11_token import Key, Module, Session, Thing, TokenInfo
from keyshred.hsm.uri import TokenUri

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_PROBE: Final = "keyshred-probe"
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 0.5
_LONGEST_STOP: Final = 5.0
"""Seconds between two attempts to open a token: one that is away, and one that a person must see to."""


class Pkcs11Device:
    """`interface.Device` over PKCS#11: opened at the first call, opened again after a loss.

    One per process: a token that comes back is seen only by a module that was finalised and initialised anew.
    """

    def __init__(self, uri: TokenUri, pin: PinFile, forced: Mechanism | None = None) -> None:
        self.wanted: Callable[[], bool] = lambda: True
        self._uri = uri
        self._pin = pin
        self._forced = forced
        self._module: Module | None = None
        self._session: Session | None = None
        self._identity: TokenInfo | None = None
        self._mechanism = Mechanism.AES_GCM
        self._data_objects = False
        self._keys: dict[KeyRef, Key] = {}
        self._pause = 0.0
        self._not_before = 0.0
        self._last_failure: KeyshredError | None = None

    # --- what callers ask for -------------------------------------------------------------------------------------

    def status(self) -> TokenStatus:
        """See Device.status."""

        def look(session: Session) -> TokenInfo:
            token = self._identify(session)
            self._prove_works(session)
            return token

        token = self._ask(look)
        return TokenStatus(
            label=token.label,
            serial=token.serial,
            manufacturer=token.manufacturer,
            model=token.model,
            firmware=token.firmware,
            mechanism=self._mechanism,
            software=softhsm.is_softhsm(token),
            data_objects=self._data_objects,
        )

    def find(self, key_id: UUID) -> tuple[KeyRef, ...]:
        """See Device.find."""
        ids = self._search(lambda session: [key.cka_id() for key in session.aes_keys(str(key_id))])
        return survey.versions(key_id, ids)

    def survey(self) -> Survey:
        """See Device.survey."""
        return self._search(lambda session: survey.survey(session, data=self._data_objects))

    def generate(self, ref: KeyRef) -> None:
        """See Device.generate."""
        if self._search(lambda session: session.aes_keys(ref.label, ref.cka_id)):
            raise Conflict(f"the token already holds {_name(ref)}")
        with self._changing() as session:
            made = session.generate(self._mechanism, ref.label, ref.cka_id)
            # Never used, so nothing depends on it; left behind it would block the next attempt.
            with _taken_back(made):
                if len(session.aes_keys(ref.label, ref.cka_id)) != 1:
                    raise Conflict(f"somebody else made {_name(ref)} at the same time")
                _check_attributes(made, ref)
                self._sync()

    def check_value(self, ref: KeyRef) -> bytes:
        """See Device.check_value."""
        return self._with_key(ref, lambda key: key.encrypt_block(CHECK_BLOCK))

    def wrap(self, ref: KeyRef, mechanism: Mechanism, dek: bytes) -> bytes:
        """See Device.wrap."""
        return self._with_key(ref, lambda key: key.wrap(mechanism, dek, ref.aad))

    def unwrap(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bytes:
        """See Device.unwrap."""
        return self._with_key(ref, lambda key: key.unwrap(mechanism, wrapped, ref.aad))

    def destroy(self, key_id: UUID) -> int:
        """See Device.destroy."""
        self.close()
        destroyed: set[int] = set()
        with self._changing() as session:
            while found := session.labelled(str(key_id)):
                for thing in found:
                    if thing.handle in destroyed:
                        raise TokenBroken(f"the token still lists an object of key {key_id} that it said it destroyed")
                    thing.destroy()
                    destroyed.add(thing.handle)
            self._prove_presence(session)
            self._sync()
        return len(destroyed)

    def opens_under_any_key(self, ref: KeyRef, mechanism: Mechanism, wrapped: bytes) -> bool:
        """See Device.opens_under_any_key."""

        def search(session: Session) -> bool:
            opened = any(key.opens(mechanism, wrapped, ref.aad) for key in session.aes_keys())
            self._prove_works(session)
            return opened

        return self._search(search)

    def claims(self, key_id: UUID) -> frozenset[str]:
        """See Device.claims."""
        return self._search_data(lambda session: data_objects.claims(session, key_id))

    def set_claim(self, key_id: UUID, cluster_uid: str, claimed: bool) -> None:
        """See Device.set_claim."""
        label = data_objects.claim_label(key_id, cluster_uid)
        found = self._search_data(lambda session: session.data(label))
        with self._changing() as session:
            if claimed and not found:
                with _taken_back(session.store(label, b"")):
                    self._sync()
                return
            for thing in () if claimed else found:
                thing.destroy()
            # Also where there was nothing to do: who did it may have been killed before this.
            self._sync()

    def head(self, key_id: UUID) -> bytes | None:
        """See Device.head."""
        newest = self._search_data(lambda session: data_objects.newest(data_objects.heads(session, key_id)))
        return newest.value if newest else None

    def set_head(self, key_id: UUID, head: bytes) -> None:
        """See Device.set_head."""
        found = self._search_data(lambda session: data_objects.heads(session, key_id))
        newest = data_objects.newest(found)
        with self._changing() as session:
            if newest is None or newest.value != head:
                number = newest.number + 1 if newest else 0
                with _taken_back(data_objects.write_head(session, key_id, number, head)):
                    # The new one is on disk before the old one goes.
                    self._sync()
            else:
                found.remove(newest)
            for former in found:
                former.thing.destroy()
            self._sync()

    def close(self) -> None:
        """See Device.close. A call after it opens the token anew."""
        self._keys.clear()
        module, self._module, self._session = self._module, None, None
        if module is not None:
            module.finalize()

    # --- opening and losing the token -----------------------------------------------------------------------------

    def _ask(self, use: Callable[[Session], _T]) -> _T:
        """Does what changes nothing on the token; once more on a fresh session, where an established one fails.

        A token that went away and came back shows it by nothing but the failure of what was opened before.
        """
        if self._session is not None:
            with contextlib.suppress(Retry), self._opened() as session:
                return use(session)
        with self._opened() as session:
            return use(session)

    def _search(self, look: Callable[[Session], _T]) -> _T:
        """What `look` finds, and what it does not find, on a token that proves itself afterwards."""

        def proven(session: Session) -> _T:
            found = look(session)
            self._prove_presence(session)
            return found

        return self._ask(proven)

    def _search_data(self, look: Callable[[Session], _T]) -> _T:
        def allowed(session: Session) -> _T:
            if not self._data_objects:
                raise NotSupported("the token keeps no data objects: no claims and no head of the ledger")
            return look(session)

        return self._search(allowed)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Session]:
        """The session for a change, which is never made twice, nor after its caller has given up on it."""
        with self._opened() as session:
            # A token that hung before this point: the caller may have lost its Lease meanwhile.
            if not self.wanted():
                raise HsmUnavailable("the token did not answer in time; nothing was changed")
            try:
                yield session
            except (CkrError, HsmUnavailable) as failure:
                if obstacle := self._obstacle():
                    # A Stop, so that the session stays: on a full disk SoftHSM could not log in again.
                    raise ConfigInvalid(f"the token takes no change: {obstacle}") from failure
                raise

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
        began = time.monotonic()
        try:
            self._module = Module(self._uri.module_path)
            self._identity, session = log_in(self._module, self._uri, self._pin, self._identity)
            self._mechanism = self._negotiate(session)
            # Once proven it stays so: a guard must not vanish because a token is in trouble.
            self._data_objects = self._data_objects or self._keeps_data(session)
        except (CkrError, KeyshredError) as failure:
            self.close()
            self._last_failure = failure.for_caller() if isinstance(failure, CkrError) else failure
            # Callers see this pause after the token is back. It is no shorter than the attempt, or a token that takes
            # long to say no would cost every caller its deadline.
            ended = time.monotonic()
            longest = _LONGEST_PAUSE if isinstance(self._last_failure, Retry) else _LONGEST_STOP
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), longest)
            self._not_before = ended + max(self._pause, ended - began)
            raise self._last_failure from (failure if isinstance(failure, CkrError) else failure.__cause__)
        self._session, self._pause, self._last_failure = session, 0.0, None
        _log.info("token opened, mechanism %s", self._mechanism)
        return session

    def _negotiate(self, session: Session) -> Mechanism:
        try:
            return mechanisms.negotiate(partial(_trial_key, session), self._forced)
        except ConfigInvalid:
            # A token that is away, or answers nothing any more, has proven nothing about itself: say that instead.
            session.token_info()
            session.aes_keys(_PROBE, on_token=False)
            raise

    def _keeps_data(self, session: Session) -> bool:
        try:
            kept = data_objects.come_back(session)
        except CkrError as failure:
            if failure.meaning in (Meaning.AWAY, Meaning.STALE):
                raise
            self._prove_works(session)
            kept = False
        if not kept:
            _log.warning(
                "the token keeps no data objects: neither claims of other clusters nor the ledger's head guard keys"
            )
        return kept

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
        if softhsm.is_softhsm(token):
            # A token whose files went away while SoftHSM read them passes for whole, with keys missing.
            shown = session.count()
            if shown != softhsm.ask(softhsm.object_count, token.serial):
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
        def use_key(session: Session) -> _T:
            try:
                return use(self._keys.get(ref) or self._look_up(session, ref))
            except CkrError as failure:
                if failure.meaning is not Meaning.STALE:
                    raise
                # The object went away under its handle: another process destroyed it, or the token is away.
                self._keys.pop(ref, None)
                return use(self._look_up(session, ref))

        return self._ask(use_key)

    def _look_up(self, session: Session, ref: KeyRef) -> Key:
        found = session.aes_keys(ref.label, ref.cka_id)
        if not found:
            self._prove_presence(session)
            raise KeyMissing(f"the token does not hold {_name(ref)}")
        if len(found) > 1:
            raise KeyAmbiguous(f"the token holds {_name(ref)} {len(found)} times")
        _check_attributes(found[0], ref)
        try:
            found[0].encrypt_block(CHECK_BLOCK)
        except CkrError as failure:
            if failure.meaning is not Meaning.SETUP:
                raise
            # SoftHSM lists a key before it has a value: what a process leaves that is killed at that moment.
            raise TokenBroken(
                f"{_name(ref)} is on the token and cannot be used ({failure.name}), as if its making had been cut off: "
                "if nothing was ever sealed under it, destroy it"
            ) from failure
        self._keys[ref] = found[0]
        return found[0]

    def _obstacle(self) -> str | None:
        if self._identity is None or not softhsm.is_softhsm(self._identity):
            return None
        return softhsm.ask(softhsm.obstacle, self._identity.serial)

    def _sync(self) -> None:
        if self._identity is not None and softhsm.is_softhsm(self._identity):
            softhsm.ask(softhsm.sync, self._identity.serial)


@contextlib.contextmanager
def _taken_back(made: Thing) -> Iterator[None]:
    """Destroys what was just made where the rest of its making fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(CkrError):
            made.destroy()
        raise


def _trial_key(session: Session, mechanism: Mechanism) -> Key:
    """A session key to negotiate with. The last one stays: it is the probe."""
    for former in session.aes_keys(_PROBE, on_token=False):
        former.destroy()
    return session.generate(mechanism, _PROBE, on_token=False)


def _check_attributes(key: Key, ref: KeyRef) -> None:
    if faults := key.faults():
        raise TokenBroken(f"{_name(ref)} has attributes that a root key must not have: {', '.join(faults)}")


def _name(ref: KeyRef) -> str:
    return f"version {ref.version} of key {ref.key_id}"
