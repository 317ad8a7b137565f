"""What the controller knows of keys and Secrets, as numbers: collected when somebody scrapes, with no stale label."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from keyshred import names
from keyshred.controller.certificates import Expiry
from keyshred.kube.client import Json
from keyshred.names import KEY_AUTHORIZATIONS, ROOT_KEYS, KeyState
from keyshred.observe.metrics import Values
from keyshred.policy import wraps
from keyshred.policy.conditions import Status, reason_in
from keyshred.policy.coverage import Report

_Numbers = dict[tuple[str, ...], float]


class Inventory:
    """The newest of each object that was seen."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Json]] = {ROOT_KEYS: {}, KEY_AUTHORIZATIONS: {}}
        self._records: dict[str, Json] = {}
        self._unsealed: _Numbers = {}
        self._pending = 0
        self.expiry: Callable[[], Expiry] = Expiry

    def saw(self, resource: str, name: str, spec: Json, status: Json) -> None:
        """A RootKey or a KeyAuthorization, with the status that it is given."""
        self._objects[resource][name] = {"spec": spec, "status": status}

    def left(self, resource: str, existing: Iterable[str]) -> None:
        """All that there are now."""
        kept = set(existing)
        self._objects[resource] = {n: o for n, o in self._objects[resource].items() if n in kept}

    def record(self, record: Json) -> None:
        """A KeyRecord, as it was just written or read."""
        if record.get("status"):
            self._records[record["metadata"]["name"]] = record

    def records(self, all_of_them: Iterable[Json]) -> None:
        """All KeyRecords."""
        self._records = {}
        for record in all_of_them:
            self.record(record)

    def surveyed(self, reports: Iterable[Report], pending: int) -> None:
        """What a survey of the Secrets found. `pending`: tasks of the sweep."""
        found: dict[tuple[str, str], str] = {}
        for report in reports:
            found |= {_place(name): "pending" for name in report.unsealed}
            found |= {(named.namespace, named.name): "held" for named in report.held}
            found |= {(named.namespace, named.name): "unsealable" for named in report.unsealable}
        self._unsealed = dict(Counter((namespace, why) for (namespace, _), why in found.items()))
        self._pending = pending

    def values(self) -> Mapping[str, Values]:
        """For metrics.Collected."""
        expiry = self.expiry()
        return {
            "keyshred_keys": self._keys(),
            "keyshred_destructions_stalled": {(): self._stalled()},
            "keyshred_root_key_ready": self._ready(ROOT_KEYS),
            "keyshred_root_key_material_present": self._present(),
            "keyshred_root_key_dependents": self._dependents(),
            "keyshred_root_key_expiry_timestamp_seconds": self._expiries(),
            "keyshred_key_version_wraps_ratio": self._wraps(),
            "keyshred_key_authorization_ready": self._ready(KEY_AUTHORIZATIONS),
            "keyshred_unsealed_secrets": self._unsealed,
            "keyshred_sweep_pending_secrets": {(): self._pending},
            "keyshred_ca_expiry_timestamp_seconds": _moment(expiry.authority),
            "keyshred_certificate_trusted": {(): float(expiry.trusted)} if expiry.serving else {},
        }

    def _keys(self) -> _Numbers:
        counted = Counter(record["status"]["state"] for record in self._records.values())
        return {(state.value,): float(counted[state.value]) for state in KeyState}

    def _stalled(self) -> float:
        return float(sum(bool(reason_in(r["status"], names.Condition.STALLED)) for r in self._records.values()))

    def _ready(self, resource: str) -> _Numbers:
        found: _Numbers = {}
        for name, obj in self._objects[resource].items():
            condition = _condition(obj, names.Condition.READY)
            if condition:
                found[name, condition["reason"]] = float(condition["status"] == Status.TRUE)
        return found

    def _present(self) -> _Numbers:
        return {
            (name,): float(_condition(obj, names.Condition.KEY_MATERIAL_PRESENT).get("status") == Status.TRUE)
            for name, obj in self._objects[ROOT_KEYS].items()
            if _condition(obj, names.Condition.KEY_MATERIAL_PRESENT)
        }

    def _dependents(self) -> _Numbers:
        return {
            (name,): float(obj["status"]["dependents"]["secrets"])
            for name, obj in self._objects[ROOT_KEYS].items()
            if obj["status"].get("dependents")
        }

    def _expiries(self) -> _Numbers:
        return {
            (name,): datetime.fromisoformat(obj["spec"]["expirationTime"]).timestamp()
            for name, obj in self._objects[ROOT_KEYS].items()
            if obj["spec"].get("expirationTime")
        }

    def _wraps(self) -> _Numbers:
        return {
            (record["spec"]["rootKeyName"], str(version["version"])): version.get("wrapsReserved", 0) / wraps.MOST
            for record in self._records.values()
            if record["status"]["state"] != KeyState.DESTROYED
            for version in record["status"].get("versions") or ()
        }


def _condition(obj: Json, kind: names.Condition) -> Json:
    return next((c for c in obj["status"].get("conditions") or () if c["type"] == kind), {})


def _place(name: str) -> tuple[str, str]:
    namespace, _, secret = name.partition("/")
    return namespace, secret


def _moment(moment: datetime | None) -> _Numbers:
    return {(): moment.timestamp()} if moment else {}
