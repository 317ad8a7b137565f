"""KeyRecords: read, begin, and write on. The webhook and the controller both write, each on what it has read."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Unpack
from uuid import UUID

from keyshred.errors import Conflict, NotFound
from keyshred.kube.client import Json, Kube, own_path
from keyshred.names import API_VERSION, KEY_RECORDS, KeyState
from keyshred.policy import ledger, wraps
from keyshred.policy.merge import merged
from keyshred.times import stamp, utc_now

_ATTEMPTS: Final = 5


class Records:
    """The KeyRecords of one cluster. Every method raises what `Kube` raises, and LedgerBroken."""

    def __init__(self, kube: Kube, written: Callable[[Json], None] = lambda record: None) -> None:
        """`written` is told of each record with a new transition."""
        self._kube = kube
        self._written = written

    async def get(self, key_id: UUID) -> Json | None:
        """The KeyRecord as it is now (a quorum read); None: there is none."""
        try:
            return await self._kube.get(own_path(KEY_RECORDS, str(key_id)))
        except NotFound:
            return None

    async def ensure(self, key_id: UUID, root_key_name: str, *, by: str) -> Json:
        """The KeyRecord, begun with the transition Created where it is new."""

        async def begin() -> Json:
            record = await self.get(key_id)
            if record is None:
                record = await self._kube.create(
                    own_path(KEY_RECORDS),
                    {
                        "apiVersion": API_VERSION,
                        "kind": "KeyRecord",
                        "metadata": {"name": str(key_id)},
                        "spec": {"keyID": str(key_id), "rootKeyName": root_key_name},
                    },
                )
            if (record.get("status") or {}).get("transitions"):
                return record
            return await self.write(
                record, action=ledger.Action.CREATED, by=by, changes={"state": KeyState.PRE_ACTIVATION.value}
            )

        return await _against_others(key_id, begin)

    async def append(
        self, key_id: UUID, *, changes: Mapping[str, Any] | None = None, **entry: Unpack[ledger.Entry]
    ) -> Json:
        """Appends one transition, and merges `changes` into the status, whoever else wrote in between.

        Only for what stays true whatever the others wrote; a step in the HSM is written with `write`.
        Raises NotFound without a KeyRecord, Conflict after five attempts.
        """

        async def read_and_write() -> Json:
            record = await self.get(key_id)
            if record is None:
                raise NotFound(f"KeyRecord {key_id} does not exist")
            return await self.write(record, changes=changes, **entry)

        return await _against_others(key_id, read_and_write)

    async def write(
        self, record: Json, *, changes: Mapping[str, Any] | None = None, **entry: Unpack[ledger.Entry]
    ) -> Json:
        """The same on the very record that was read. Raises Conflict where it has moved since.

        Wraps that were counted meanwhile are no move: they decide nothing here, and a busy key would keep its
        destruction waiting. `changes` with versions are taken for a decision about them.
        """

        def written_on(status: Mapping[str, Any]) -> Json:
            transitions = ledger.append(status, now=utc_now(), **entry)
            return merged(status, changes or {}) | {"transitions": transitions}

        result = await self._replace_counted(record, written_on, or_counted="versions" not in (changes or {}))
        self._written(result)
        return result

    async def admit_delete(self, key_id: UUID, root_key_name: str, *, by: str, root_key_uid: str) -> Json:
        """Records that `by` may delete the RootKey with this UID; the KeyRecord is begun where there is none."""
        await self.ensure(key_id, root_key_name, by=by)

        async def read_and_write() -> Json:
            record = await self.get(key_id)
            if record is None:
                raise NotFound(f"KeyRecord {key_id} does not exist")
            admitted = {"by": ledger.cut(by), "time": stamp(utc_now()), "rootKeyUID": root_key_uid}
            changes = {"deleteAdmitted": admitted}
            if ledger.repeats_delete(record["status"], root_key_uid):
                return await self.note(record, changes)
            return await self.write(
                record, action=ledger.Action.DELETE_ADMITTED, by=by, root_key_uid=root_key_uid, changes=changes
            )

        return await _against_others(key_id, read_and_write)

    async def note(self, record: Json, changes: Mapping[str, Any]) -> Json:
        """Merges `changes` into the status of the very record that was read, without a transition. Raises Conflict."""
        return await self._replace(record, merged(record.get("status") or {}, changes))

    async def prove(self, record: Json) -> None:
        """Returns if the record has not moved since it was read, as in `write`; changes nothing. Raises Conflict."""
        # The API server compares the version before it finds that nothing changes.
        await self._replace_counted(record, dict)

    async def _replace_counted(
        self, record: Json, status: Callable[[Mapping[str, Any]], Json], *, or_counted: bool = True
    ) -> Json:
        for _ in range(_ATTEMPTS):
            try:
                return await self._replace(record, status(record.get("status") or {}))
            except Conflict:
                now = await self.get(UUID(record["metadata"]["name"])) if or_counted else None
                if now is None or not _same_but_for_counts(now, record):
                    raise
                record = now
        raise _kept_from_writing(UUID(record["metadata"]["name"]))

    async def _replace(self, record: Json, status: Mapping[str, Any]) -> Json:
        return await self._kube.replace(
            own_path(KEY_RECORDS, record["metadata"]["name"], "status"), record | {"status": status}
        )


async def _against_others(key_id: UUID, attempt: Callable[[], Awaitable[Json]]) -> Json:
    """Optimistic concurrency: reads and decides anew where somebody else wrote in between. Raises Conflict at last."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(Conflict):
            return await attempt()
    raise _kept_from_writing(key_id)


def _kept_from_writing(key_id: UUID) -> Conflict:
    return Conflict(f"KeyRecord {key_id}: others keep writing it")


def _same_but_for_counts(one: Json, other: Json) -> bool:
    """Whether nothing but numbers of wraps differs, and it is the same object."""
    statuses = [wraps.without_counts(record.get("status") or {}) for record in (one, other)]
    return one["metadata"]["uid"] == other["metadata"]["uid"] and statuses[0] == statuses[1]
