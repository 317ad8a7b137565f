"""Whether a key is destroyed, for who still holds values of a Secret that is gone, or sealed under another key now."""

from dataclasses import dataclass
from uuid import UUID

from aiohttp import web

from keyshred.errors import KeyGone, Malformed
from keyshred.webhook.snapshot import Snapshot
from keyshred.webhook.tokens import Tokens


@dataclass(slots=True)
class KeyStates:
    """What the call needs."""

    snapshot: Snapshot
    tokens: Tokens

    async def handle(self, request: web.Request) -> web.Response:
        """`GET /v1/keys/{key_id}`: 410 for a destroyed key, 204 for every other ID, known or not.

        For any ServiceAccount: who has the ID was given it with values of that key.
        """
        await self.tokens.identify(request.headers.get("Authorization", ""))
        try:
            key_id = UUID(request.match_info["key_id"])
        except ValueError:
            raise Malformed("that is no key ID") from None
        if (await self.snapshot.policy()).is_destroyed(key_id):
            raise KeyGone("this key is destroyed: nothing that it sealed can be read again by anyone")
        return web.Response(status=204, headers={"Cache-Control": "no-store"})
