"""Looks at a token from a process that was not there before, and changes it behind the controller's back."""

import asyncio
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Final
from uuid import UUID

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

from keyshred.errors import HsmUnavailable
from keyshred.hsm import uri as uris
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from tests.cluster.softhsm import SoftHsm

# Each process is forked from one that has imported all this and never saw a token: a new interpreter would take a
# second each time.
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def ask(hsm: SoftHsm, verb: str, *arguments: str) -> str:
    """What the process says.

    `find KEYID` counts objects; `generate` and `destroy` do as they say; `import KEYID KEYID` puts one key that was
    made elsewhere under both key IDs. `claims KEYID` and `head KEYID` are what the token's data objects say; `claim
    KEYID UID` adds the claim of another cluster, and `set-head KEYID TEXT` its head.
    Errors: AssertionError with what went wrong there.
    """
    ours, its = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_answer, args=(its, hsm.env, hsm.uri, verb, *arguments))
    process.start()
    its.close()
    try:
        done, said = ours.recv()
    except EOFError:
        done, said = False, "it ended without a word"
    finally:
        process.join()
        ours.close()
    assert done, f"{verb}: {said}"
    return str(said)


def _answer(to: Connection, environment: dict[str, str], uri: str, verb: str, *arguments: str) -> None:
    os.environ.update(environment)
    try:
        said = _import(uri, *arguments) if verb == "import" else asyncio.run(_try(uri, verb, *arguments))
        to.send((True, said))
    except Exception as error:
        to.send((False, f"{type(error).__name__}: {error}"))


def _import(uri: str, *key_ids: str) -> str:
    """Creates the same AES key for each key ID, with the attributes that keyshred asks for."""
    where, value = uris.parse(uri), os.urandom(32)
    token = pkcs11.lib(str(where.module_path)).get_token(token_label=where.token)
    with token.open(rw=True, user_pin=where.pin_source.read_text()) as session:
        for key_id in key_ids:
            session.create_object(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.AES,
                    Attribute.VALUE: value,
                    Attribute.LABEL: key_id,
                    Attribute.ID: KeyRef(UUID(key_id), 1).cka_id,
                    **dict.fromkeys(_YES, True),
                    **dict.fromkeys(_NO, False),
                }
            )
    return ""


_YES = (Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.ENCRYPT, Attribute.DECRYPT)
_NO = (
    *(Attribute.EXTRACTABLE, Attribute.COPYABLE, Attribute.MODIFIABLE, Attribute.WRAP, Attribute.UNWRAP),
    *(Attribute.SIGN, Attribute.VERIFY, Attribute.DERIVE),
)


_PATIENCE = 30.0


async def _try(uri: str, verb: str, *arguments: str) -> str:
    """One operation, made again as long as the token says to try again.

    HsmUnavailable is what it says while the controller changes what is being looked at: SoftHSM shows no whole token
    between the steps of a change (Device._prove_presence), and none of keyshred's callers takes it for an answer.
    """
    hsm, deadline = HsmService.start(uri), time.monotonic() + _PATIENCE
    while True:
        try:
            said = await _operate(hsm, verb, *arguments)
            break
        except HsmUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
    await hsm.close()
    return said


async def _operate(hsm: HsmService, verb: str, key_id: str, text: str = "") -> str:
    match verb:
        case "find":
            return str(len(await hsm.find(UUID(key_id))))
        case "claims":
            return " ".join(sorted(await hsm.claims(UUID(key_id))))
        case "head":
            return (await hsm.head(UUID(key_id)) or b"").decode()
        case "generate":
            await hsm.generate(KeyRef(UUID(key_id), 1))
        case "destroy":
            await hsm.destroy(UUID(key_id))
        case "claim":
            await hsm.set_claim(UUID(key_id), text, True)
        case "set-head":
            await hsm.set_head(UUID(key_id), text.encode())
        case _:
            raise ValueError(verb)
    return ""
