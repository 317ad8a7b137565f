"""Looks at a token from a process of its own: `find URI KEYID` counts objects; `generate` and `destroy` as they say.

`import URI KEYID KEYID` puts one key that was made elsewhere under both key IDs. `claims URI KEYID` and `head URI
KEYID` print what the token's data objects say; `claim URI KEYID UID` adds the claim of another cluster, and
`set-head URI KEYID TEXT` its head.
"""

import asyncio
import os
import sys
import time
from uuid import UUID

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

from keyshred.errors import HsmUnavailable
from keyshred.hsm import uri as uris
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService


def put(uri: str, *key_ids: str) -> None:
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


_YES = (Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.ENCRYPT, Attribute.DECRYPT)
_NO = (
    *(Attribute.EXTRACTABLE, Attribute.COPYABLE, Attribute.MODIFIABLE, Attribute.WRAP, Attribute.UNWRAP),
    *(Attribute.SIGN, Attribute.VERIFY, Attribute.DERIVE),
)


_PATIENCE = 30.0


async def main(uri: str, verb: str, *arguments: str) -> None:
    """One operation, made again as long as the token says to try again.

    HsmUnavailable is what it says while the controller changes what is being looked at: SoftHSM shows no whole token
    between the steps of a change (Device._prove_presence), and none of keyshred's callers takes it for an answer.
    """
    hsm, deadline = HsmService.start(uri), time.monotonic() + _PATIENCE
    while True:
        try:
            await operate(hsm, verb, *arguments)
            break
        except HsmUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
    await hsm.close()


async def operate(hsm: HsmService, verb: str, key_id: str, text: str = "") -> None:
    """The operation."""
    if verb == "generate":
        await hsm.generate(KeyRef(UUID(key_id), 1))
    elif verb == "destroy":
        await hsm.destroy(UUID(key_id))
    elif verb == "claims":
        print(*sorted(await hsm.claims(UUID(key_id))))
    elif verb == "head":
        print((await hsm.head(UUID(key_id)) or b"").decode())
    elif verb == "claim":
        await hsm.set_claim(UUID(key_id), text, True)
    elif verb == "set-head":
        await hsm.set_head(UUID(key_id), text.encode())
    else:
        print(len(await hsm.find(UUID(key_id))))


if __name__ == "__main__":
    if sys.argv[1] == "import":
        put(*sys.argv[2:])
    else:
        asyncio.run(main(sys.argv[2], sys.argv[1], *sys.argv[3:]))
