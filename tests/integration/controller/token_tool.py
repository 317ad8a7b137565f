"""Looks at a token from a process of its own: `find URI KEYID` counts objects; `generate` and `destroy` as they say."""

import asyncio
import sys
from uuid import UUID

from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService


async def main(verb: str, uri: str, key_id: str) -> None:
    """One operation."""
    hsm = HsmService.start(uri)
    if verb == "generate":
        await hsm.generate(KeyRef(UUID(key_id), 1))
    elif verb == "destroy":
        await hsm.destroy(UUID(key_id))
    else:
        print(len(await hsm.find(UUID(key_id))))
    await hsm.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
