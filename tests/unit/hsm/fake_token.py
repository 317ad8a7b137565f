"""A token of our own invention, for what no real one can be made to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyshred.envelope.format import Mechanism
from keyshred.hsm.ckr import CkrError, Meaning
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.pkcs11_token import TokenInfo
from tests.unit.hsm.test_mechanisms import GoodKey

REF = KeyRef(uuid4(), 1)
INFO = TokenInfo("label", "serial", "SoftHSM project", "SoftHSM v2", "2.6", 0, "slot", "vendor", pin_in_danger=False)


class Thing(GoodKey):
    """An AES key on the token."""

    def __init__(self, token: "Token", label: str, cka_id: bytes, on_token: bool = True) -> None:
        super().__init__()
        self.token, self._label, self.id, self.on_token = token, label, cka_id, on_token
        self.handle = id(self)

    def label(self) -> str:
        return self._label

    def cka_id(self) -> bytes:
        return self.id

    def encrypt_block(self, block: bytes) -> bytes:
        if self.token.valueless:
            raise CkrError("MechanismInvalid", Meaning.SETUP)
        return AESGCM(self.key).encrypt(bytes(12), block, b"")

    def works(self, mechanism: Mechanism) -> bool:
        return self.token.works

    def faults(self) -> list[str]:
        return self.token.faults

    def opens(self, mechanism: Mechanism, wrapped: bytes, aad: bytes) -> bool:
        return False

    def destroy(self) -> None:
        if not self.token.undying:
            self.token.things.remove(self)
        self.token.log.append("destroy")


class Note:
    """A data object."""

    def __init__(self, token: "Token", label: str, value: bytes) -> None:
        self.token, self._label, self._value = token, label, value

    def label(self) -> str:
        return self._label

    def value(self) -> bytes:
        return self._value

    def destroy(self) -> None:
        self.token.notes.remove(self)
        self.token.log.append(f"unlink {self._value!r}")


class SessionNote(Note):
    """A data object that goes with the session."""

    def destroy(self) -> None:
        pass


@dataclass
class Token:
    """Module, session and token in one."""

    infos: list[TokenInfo] = field(default_factory=lambda: [INFO])
    things: list[Thing] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    keeps_notes: CkrError | None = None
    log: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    works: bool = True
    undying: bool = False
    valueless: bool = False
    obstacle: str | None = None
    hidden: int = 0
    logged_in: bool = True
    fleeting: bool = False
    """A login is lost as soon as something was made in it: the probe."""
    login: CkrError | None = None
    born: Callable[[Thing], None] = lambda thing: None

    def tokens(self) -> list[tuple[TokenInfo, object]]:
        return [(info, self) for info in self.infos]

    def finalize(self) -> None:
        self.log.append("finalize")
        self.things = [thing for thing in self.things if thing.on_token]

    def open(self, _: object, pin: str) -> "Token":
        self.log.append("login")
        if self.login:
            raise self.login
        self.logged_in = True
        return self

    def token_info(self) -> TokenInfo:
        return self.infos[0]

    def aes_keys(self, label: str | None = None, cka_id: bytes | None = None, *, on_token: bool = True) -> list[Thing]:
        return [
            thing
            for thing in self.things
            if self.logged_in
            and thing.on_token is on_token
            and label in (None, thing.label())
            and cka_id in (None, thing.id)
        ]

    def count(self) -> int:
        return len(self.aes_keys()) + len(self.data())

    def data(self, label: str | None = None) -> list[Note]:
        return [note for note in self.notes if self.logged_in and label in (None, note.label())]

    def store(self, label: str, value: bytes, *, on_token: bool = True) -> Note:
        if self.keeps_notes:
            raise self.keeps_notes
        if not on_token:
            return SessionNote(self, label, value)
        note = Note(self, label, value)
        self.notes.append(note)
        self.log.append(f"write {value!r}")
        return note

    def labelled(self, label: str) -> list[Thing]:
        return self.aes_keys(label)

    def generate(self, mechanism: Mechanism, label: str, cka_id: bytes = b"", *, on_token: bool = True) -> Thing:
        thing = Thing(self, label, cka_id, on_token)
        self.things.append(thing)
        self.logged_in = not self.fleeting
        if on_token:
            self.log.append("generate")
            self.born(thing)
        return thing
