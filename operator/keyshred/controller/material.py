"""The key on the token: makes it, takes it over, looks after it. Never a new one where an old one is missing."""

import asyncio
import base64
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from keyshred.controller.faults import faultpoint
from keyshred.controller.ledger import Ledger
from keyshred.controller.parts import BY, Parts, key_id_of
from keyshred.envelope.format import Mechanism
from keyshred.envelope.seal import new_dek
from keyshred.errors import CannotOpen, KeyAmbiguous, KeyMissing, KeyshredError, TokenMismatch
from keyshred.hsm.interface import KeyRef, Survey, TokenStatus
from keyshred.kube.client import Json
from keyshred.names import KeyState, Reason
from keyshred.policy.conditions import Status
from keyshred.policy.destruction import token_fields
from keyshred.policy.heads import Head
from keyshred.policy.ledger import Action
from keyshred.policy.lifecycle import Material, has_material
from keyshred.times import rfc3339, utc_now

_GENERATED, _ADOPTED = "Generated", "Adopted"


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at a key on the token."""

    generation: int
    """Of the RootKey."""
    time: float
    newest: Head
    """The newest transition that the KeyRecord was seen with since."""
    material: Material

    def counts(self, generation: int, since: float, status: Json) -> bool:
        """Whether it says enough of the key as it is now."""
        # A record that no longer holds what it held was restored from a backup, say.
        return self.generation == generation and self.time > since and self.newest.is_in(status)


class Materials:
    """Key material of RootKeys.

    A check is a few calls of the token, so it is made when a spec changed and at each resync, not at each event. At a
    resync, one look over the token spares each key that is as it should be all of them but one.
    """

    def __init__(self, parts: Parts, ledger: Ledger) -> None:
        self._parts = parts
        self._ledger = ledger
        self._checked: dict[str, _Look] = {}
        """By UID."""
        self._surveyed: tuple[float, Survey] | None = None
        """Time and what was found."""

    async def look_over(self) -> None:
        """Before a resync. Where the token does not let it, each key finds out why by itself."""
        self._surveyed = None
        with contextlib.suppress(KeyshredError):
            found = await self._parts.hsm.survey()
            self._surveyed = (asyncio.get_running_loop().time(), found)

    async def ensure(self, obj: Json, record: Json) -> tuple[Json, Material]:
        """The KeyRecord, perhaps written on, and what is on the token.

        Raises Conflict (read again), Retry, and Stop where going on could do harm.
        """
        uid, generation = obj["metadata"]["uid"], obj["metadata"]["generation"]
        status, now = record["status"], asyncio.get_running_loop().time()
        held = has_material(status) and status.get("rootKeyUID") == uid
        last = self._checked.pop(uid, None)
        if held and last and last.counts(generation, now - self._parts.settings.resync / 2, status):
            self._checked[uid] = replace(last, newest=Head.of(status, ""))
            return record, last.material
        if held:
            token = await self._check(record)
        elif obj["spec"].get("origin") == _ADOPTED:
            record, token = await self._adopt(obj, record)
        else:
            record, token = await self._generate(obj, record)
        material = Material(
            Status.TRUE,
            Reason.KEY_PRESENT,
            f"the token {token.label} holds the key, and it is the same",
            token.software,
            token.data_objects,
        )
        self._checked[uid] = _Look(generation, now, Head.of(record["status"], ""), material)
        return record, material

    def forget(self, uid: str) -> None:
        """The RootKey is gone."""
        self._checked.pop(uid, None)

    async def _generate(self, obj: Json, record: Json) -> tuple[Json, TokenStatus]:
        hsm, ref, uid = self._parts.hsm, KeyRef(key_id_of(record), 1), obj["metadata"]["uid"]
        token = await hsm.status()
        await self._parts.token_record.remember(token)
        await self._ledger.check(record, token)
        found = await hsm.find(ref.key_id)
        intended = any(
            t["action"] == Action.GENERATE_STARTED and t.get("rootKeyUID") == uid
            for t in record["status"]["transitions"]
        )
        # An object is ours only where the intent to make it was written first: a crash came between.
        if found and not (intended and found == (ref,)):
            raise KeyAmbiguous(
                f"the token holds a key with the key ID {ref.key_id} already, and not from this RootKey: it is not "
                "touched. To use it, delete this RootKey and create one with origin Adopted and that key ID"
            )
        if intended:
            await self._parts.records.prove(record)
        else:
            record = await self._ledger.write(
                record, action=Action.GENERATE_STARTED, by=BY, root_key_uid=uid, changes={"rootKeyUID": uid}
            )
        await self._ledger.hold(record, token)
        faultpoint("before-Generate")
        if not found:
            self._parts.lease.check()
            await hsm.generate(ref)
        faultpoint("after-Generate")
        version = await self._version(ref, token.mechanism) | {"createdAt": rfc3339(utc_now())}
        record = await self._ledger.write(
            record,
            action=Action.GENERATED,
            by=BY,
            root_key_uid=uid,
            changes={"versions": [version], "token": token_fields(token), "rootKeyUID": uid},
        )
        faultpoint("after-Generated")
        return record, token

    async def _adopt(self, obj: Json, record: Json) -> tuple[Json, TokenStatus]:
        hsm, key_id = self._parts.hsm, key_id_of(record)
        token = await hsm.status()
        await self._parts.token_record.remember(token)
        known = {v["version"]: v for v in record["status"].get("versions") or ()}
        await self._ledger.check(record, token)
        found = await hsm.find(key_id)
        _require(found, known, token)
        versions = []
        for ref in found:
            version = known.get(ref.version, {})
            fresh = await self._version(ref, Mechanism(version.get("mechanism", token.mechanism)))
            _compare(ref, version, fresh["checkValue"])
            if version.get("canary"):
                await self._open(ref, version)
            versions.append(fresh | version)
        await self._ledger.hold(record, token)
        restored = record["status"]["state"] == KeyState.PENDING_DESTRUCTION
        action = Action.RESTORED if restored else Action.ADOPTED
        faultpoint(f"before-{action}")
        record = await self._ledger.write(
            record,
            action=action,
            by=BY,
            root_key_uid=obj["metadata"]["uid"],
            changes={
                "versions": versions,
                "token": token_fields(token),
                "rootKeyUID": obj["metadata"]["uid"],
                "message": None,
                "destruction": None,
            }
            | ({"state": KeyState.PRE_ACTIVATION.value} if restored else {}),
        )
        faultpoint(f"after-{action}")
        return record, token

    async def _check(self, record: Json) -> TokenStatus:
        token = await self._parts.hsm.status()
        known = {v["version"]: v for v in record["status"]["versions"]}
        if (refs := await self._as_it_should_be(record, known, token)) is not None:
            await self.compare(record, refs)  # asks for the key itself, so one that is gone by now is missed
            return token
        await self._ledger.check(record, token)
        found = await self._parts.hsm.find(key_id_of(record))
        _require(found, known, token)
        await self.compare(record, found)
        await self._ledger.hold(record, token)
        return token

    async def _as_it_should_be(
        self, record: Json, known: Mapping[int, Json], token: TokenStatus
    ) -> tuple[KeyRef, ...] | None:
        """The versions, where a fresh survey shows them, our claim and the ledger's head; None: look more closely."""
        if self._surveyed is None:
            return None
        when, survey = self._surveyed
        refs = survey.keys.get(key_id_of(record))
        if asyncio.get_running_loop().time() - when > self._parts.settings.resync / 2 or refs is None:
            return None
        if known.keys() != {ref.version for ref in refs}:
            return None
        return refs if await self._ledger.is_held(record, token, survey) else None

    async def compare(self, record: Json, found: tuple[KeyRef, ...]) -> None:
        """Check values of the recorded ones among `found`. Raises TokenMismatch for one that differs."""
        known = {v["version"]: v for v in record["status"].get("versions") or ()}
        for ref in found:
            if ref.version in known:
                _compare(ref, known[ref.version], (await self._parts.hsm.check_value(ref)).hex())

    async def open_canaries(self, record: Json, found: tuple[KeyRef, ...]) -> bool:
        """Opens the canary of each of `found` that has one; whether any was opened. Raises TokenMismatch."""
        canaries = {v["version"]: v for v in record["status"].get("versions") or () if v.get("canary")}
        to_open = [ref for ref in found if ref.version in canaries]
        for ref in to_open:
            await self._open(ref, canaries[ref.version])
        return bool(to_open)

    async def _version(self, ref: KeyRef, mechanism: Mechanism) -> Json:
        """A version for the record. The canary's DEK is thrown away: that it opens is all that is ever asked."""
        hsm = self._parts.hsm
        canary = await hsm.wrap(ref, mechanism, new_dek())
        return {
            "version": ref.version,
            "mechanism": mechanism.value,
            "checkValue": (await hsm.check_value(ref)).hex(),
            "canary": base64.b64encode(canary).decode(),
        }

    async def _open(self, ref: KeyRef, version: Json) -> None:
        wrapped = base64.b64decode(version["canary"])
        try:
            await self._parts.hsm.unwrap(ref, Mechanism(version["mechanism"]), wrapped)
        except CannotOpen:
            raise TokenMismatch(
                f"the token's version {ref.version} of this key does not open its canary: it is another key; "
                "nothing is done with it"
            ) from None


def _require(found: tuple[KeyRef, ...], known: dict[int, Json], token: TokenStatus) -> None:
    present = {ref.version for ref in found}
    missing = sorted(known.keys() - present)
    if missing or not present:
        which = f"version {', '.join(map(str, missing))} of this key" if missing else "no key with this key ID"
        raise KeyMissing(
            f"the token {token.label} (serial number {token.serial}) holds {'not ' if missing else ''}{which}: connect "
            "keyshred to the token that does, or restore it from the token's backup; no new key is made in its place"
        )


def _compare(ref: KeyRef, version: Json, check_value: str) -> None:
    if version.get("checkValue", check_value) != check_value:
        raise TokenMismatch(
            f"the token's version {ref.version} of this key has the check value {check_value}, the KeyRecord has "
            f"{version['checkValue']}: it is another key; nothing is done with it"
        )
