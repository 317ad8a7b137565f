"""DEKs by way of the token: the three things that admission and unsealing ask of a root key."""

from datetime import datetime
from uuid import UUID

from keyshred.envelope.context import Context
from keyshred.envelope.format import Born, Envelope
from keyshred.envelope.seal import ValueKeys, derive, new_dek, unlock
from keyshred.errors import CannotOpen, TokenMismatch
from keyshred.hsm.interface import KeyRef
from keyshred.hsm.service import HsmService
from keyshred.observe import metrics
from keyshred.policy.resources import KeyVersion, RootKey
from keyshred.webhook.wraps import Wraps


class Keys:
    """Wraps and unwraps DEKs. No DEK and no root key stays here: each call is one operation of the token.

    Every method raises what the token raises: HsmUnavailable, HsmBusy, KeyMissing, KeyAmbiguous, TokenBroken, ...
    """

    def __init__(self, hsm: HsmService, wraps: Wraps) -> None:
        self._hsm = hsm
        self._wraps = wraps
        self._verified: set[tuple[KeyRef, bytes]] = set()

    async def new(
        self, root_key: RootKey, key_id: UUID, namespace: str, name: str, born: Born, born_at: datetime
    ) -> tuple[ValueKeys, Envelope]:
        """A fresh DEK for one Secret, wrapped under the root key's current version.

        Raises TokenMismatch where the token's key is not the one that the RootKey's status names, and what `Wraps.take`
        raises where the wrap cannot be counted.
        """
        version = root_key.versions[root_key.current_version]
        ref = KeyRef(key_id, version.version)
        await self._verify(root_key.name, ref, version)
        await self._wraps.take(ref, root_key.name)
        dek = new_dek()
        keys = derive(dek, Context(key_id, namespace, name))
        wrapped = await self._hsm.wrap(ref, version.mechanism, dek)
        metrics.SEALS.inc()
        envelope = Envelope(
            key_id=key_id,
            key_version=version.version,
            mechanism=version.mechanism,
            wrapped_dek=wrapped,
            commit=keys.commit,
            namespace=namespace,
            name=name,
            born=born,
            born_at=born_at.replace(microsecond=0),
        )
        return keys, envelope

    def rotation_due(self, envelope: Envelope) -> bool:
        """Whether the version that wrapped this DEK has wrapped so many that it is to be replaced."""
        return self._wraps.rotation_due(KeyRef(envelope.key_id, envelope.key_version))

    async def unlock(self, envelope: Envelope, root_key: RootKey | None) -> ValueKeys:
        """The keys for the values under an envelope of this RootKey. Raises CannotOpen.

        The caller has asked the policy before.
        """
        # A forged version would make the token prove at length that it has no such key.
        if root_key is None or envelope.key_version not in root_key.versions:
            raise CannotOpen
        ref = KeyRef(envelope.key_id, envelope.key_version)
        dek = await self._hsm.unwrap(ref, envelope.mechanism, envelope.wrapped_dek)
        return unlock(dek, envelope)

    async def _verify(self, root_key: str, ref: KeyRef, version: KeyVersion) -> None:
        if (ref, version.check_value) in self._verified:
            return
        if await self._hsm.check_value(ref) != version.check_value:
            raise TokenMismatch(
                f"RootKey {root_key}: the token's key has another check value than version {version.version} in the "
                "RootKey's status; nothing is sealed under it"
            )
        self._verified.add((ref, version.check_value))
