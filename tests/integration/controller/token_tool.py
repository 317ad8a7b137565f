"""Looks at a token from a process of its own: `find URI KEYID` counts objects; `generate` and `destroy` as they say.

`import URI KEYID KEYID` puts one key that was made elsewhere under both key IDs. `claims URI KEYID` and `head URI
KEYID` print what the token's data objects say; `claim URI KEYID UID` adds the claim of another cluster, and
`set-head URI KEYID TEXT` its head.
"""

import asyncio
import os
import sys
from uuid import UUID

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

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


async def main(verb: str, uri: str, key_id: str, text: str = "") -> None:
    """One operation."""
    hsm = HsmService.start(uri)
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
    await hsm.close()


if __name__ == "__main__":
    if sys.argv[1] == "import":
        put(*sys.argv[2:])
    else:
        asyncio.run(main(*sys.argv[1:]))
