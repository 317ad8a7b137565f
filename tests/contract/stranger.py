"""Another application on the same token, in a process of its own: what happens behind keyshred's back.

`python -m tests.contract.stranger URI VERB ARGUMENT...` prints its answer as JSON.
"""

import json
import os
import subprocess
import sys
from typing import Any
from uuid import UUID

import pkcs11
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass, PKCS11Error, TokenFlag

from keyshred.hsm import uri as token_uri

PROTECTION = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
SHOWN = (
    *PROTECTION,
    Attribute.LABEL,
    Attribute.ID,
    Attribute.VALUE_LEN,
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.DERIVE,
    Attribute.LOCAL,
    Attribute.ALWAYS_SENSITIVE,
    Attribute.NEVER_EXTRACTABLE,
)


def ask(uri: str, verb: str, *arguments: object) -> Any:
    """Have a stranger do it, and return the answer. It finds the token by this process's environment."""
    command = [sys.executable, "-m", "tests.contract.stranger", uri, verb, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, timeout=60).stdout)


def attributes(session: pkcs11.Session, label: str) -> list[dict[str, object]]:
    """Attributes of all objects with this label."""
    return [
        {Attribute(name).name: _plain(value) for name, value in found.get_attributes(SHOWN).items()}
        for found in _objects(session, label)
    ]


def abuse(session: pkcs11.Session, label: str) -> dict[str, str | None]:
    """Exceptions by which the token kept the key from being read, copied, renamed and made extractable."""
    (key,) = _objects(session, label)
    tries = {
        "read": lambda: key[Attribute.VALUE],
        "copy": lambda: key.copy({Attribute.LABEL: "copy"}),
        "rename": lambda: key.__setitem__(Attribute.LABEL, "renamed"),
        "extract": lambda: key.__setitem__(Attribute.EXTRACTABLE, True),
    }
    return {name: _refusal(attempt) for name, attempt in tries.items()}


def generate(session: pkcs11.Session, label: str, version: str, extractable: str = "") -> None:
    """A key with the label and CKA_ID of a root key version."""
    session.generate_key(
        KeyType.AES,
        256,
        label=label,
        id=UUID(label).bytes + int(version).to_bytes(4, "big"),
        store=True,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT | MechanismFlag.WRAP | MechanismFlag.UNWRAP
        if extractable
        else MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template={**PROTECTION, Attribute.EXTRACTABLE: bool(extractable)},
    )


def put(session: pkcs11.Session, label: str, version: str, value: str) -> None:
    """A key of this value (hex), for AES-GCM, with the label and CKA_ID of a root key version."""
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.VALUE: bytes.fromhex(value),
            Attribute.LABEL: label,
            Attribute.ID: UUID(label).bytes + int(version).to_bytes(4, "big"),
            **PROTECTION,
            **dict.fromkeys((Attribute.ENCRYPT, Attribute.DECRYPT), True),
            **dict.fromkeys((Attribute.WRAP, Attribute.UNWRAP, Attribute.SIGN, Attribute.VERIFY), False),
            Attribute.DERIVE: False,
        }
    )


def destroy(session: pkcs11.Session, label: str) -> int:
    """Destroy all objects with this label."""
    found = _objects(session, label)
    for thing in found:
        thing.destroy()
    return len(found)


def notes(session: pkcs11.Session, label: str) -> list[dict[str, object]]:
    """Data objects whose label has this in it, with their attributes."""
    return [
        {
            "label": found[Attribute.LABEL],
            "application": found[Attribute.APPLICATION],
            "private": found[Attribute.PRIVATE],
            "value": found[Attribute.VALUE].hex(),
        }
        for found in _notes(session, label)
    ]


def note(session: pkcs11.Session, label: str, value: str) -> None:
    """A data object as keyshred makes them; value in hex."""
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.DATA,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.APPLICATION: "keyshred",
            Attribute.LABEL: label,
            Attribute.VALUE: bytes.fromhex(value),
        }
    )


def forget(session: pkcs11.Session, label: str) -> None:
    """Destroy all data objects whose label has this in it."""
    for found in _notes(session, label):
        found.destroy()


def count(session: pkcs11.Session) -> int:
    """Objects on the token."""
    return len(list(session.get_objects({Attribute.TOKEN: True})))


VERBS = {verb.__name__: verb for verb in (attributes, abuse, generate, put, destroy, notes, note, forget, count)}


def token_of(uri: str) -> pkcs11.Token:
    """The token that a URI names."""
    parsed = token_uri.parse(uri)
    where = {"token_label": parsed.token} if parsed.serial is None else {"token_serial": parsed.serial.encode()}
    return pkcs11.lib(str(parsed.module_path)).get_token(**where)


def main(uri: str, verb: str, *arguments: str) -> None:
    token = token_of(uri)
    if verb == "wrong_pin_was_tried":
        answer: object = bool(token.flags & TokenFlag.USER_PIN_COUNT_LOW)
    else:
        with token.open(rw=True, user_pin=token_uri.parse(uri).pin_source.read_text().rstrip("\n")) as session:
            answer = VERBS[verb](session, *arguments)
    print(json.dumps(answer))


def _objects(session: pkcs11.Session, label: str) -> list[Any]:
    return list(session.get_objects({Attribute.LABEL: label, Attribute.CLASS: ObjectClass.SECRET_KEY}))


def _notes(session: pkcs11.Session, label: str) -> list[Any]:
    found = list(session.get_objects({Attribute.CLASS: ObjectClass.DATA}))
    return [thing for thing in found if label in thing[Attribute.LABEL]]


def _refusal(attempt: Any) -> str | None:
    try:
        attempt()
    except PKCS11Error as refusal:
        return type(refusal).__name__
    return None


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


if __name__ == "__main__":
    main(*sys.argv[1:])
