"""Admission of RootKeys and KeyAuthorizations."""

import copy
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyshred.errors import KeyProtected, Malformed, PolicyNotFresh, Refused
from keyshred.kube.client import own_path
from keyshred.kube.records import Records
from keyshred.names import FINALIZER, KEY_RECORDS, ROOT_KEYS, KeyState
from keyshred.policy.guards import Floors
from keyshred.times import rfc3339, utc_now
from keyshred.webhook.guard import GARBAGE_COLLECTORS, Guard
from keyshred.webhook.review import ALLOW, Review
from tests.unit.fakes import KEY_A, KEY_B, FakeKube, FixedSnapshot, authorization, policy, root_key

Json = dict[str, Any]
RECORDS, ROOT_KEY_URL = own_path(KEY_RECORDS), own_path(ROOT_KEYS)


def guard(*objects: Json, kube: FakeKube | None = None, **more: Any) -> Guard:
    kube = kube or FakeKube(RECORDS, ROOT_KEY_URL)
    return Guard(kube.kube, FixedSnapshot(policy(*objects, **more)).snapshot, Records(kube.kube))


def with_root_key(obj: Json) -> FakeKube:
    kube = FakeKube(RECORDS, ROOT_KEY_URL)
    kube.put(ROOT_KEY_URL, obj["metadata"]["name"], **obj)
    return kube


def review(operation: str, new: Json | None, old: Json | None = None, **fields: Any) -> Review:
    user, dry_run = fields.get("user", "key-admin"), fields.get("dry_run", False)
    return Review("1", operation, "", "", user, dry_run, new, old)


def added(patch: Any) -> dict[str, Any]:
    return {operation["path"]: operation["value"] for operation in patch}


# --- RootKeys


@pytest.mark.parametrize("obj", [{"metadata": {}}, {"metadata": {}, "spec": {}}, {"metadata": {}, "spec": None}])
async def test_a_new_root_key_gets_its_key_id_and_finalizer(obj: Json) -> None:
    answers = [await guard().stamp_root_key(review("CREATE", obj)) for _ in range(2)]
    stamps = [added(a.patch) for a in answers]
    assert all(s["/metadata/finalizers"] == [FINALIZER] for s in stamps)
    assert uuid.UUID(stamps[0]["/spec/keyID"]).version == 4
    assert stamps[0]["/spec/keyID"] != stamps[1]["/spec/keyID"]
    if not obj.get("spec"):
        paths = [operation["path"] for operation in answers[0].patch]
        assert obj.get("spec") == {} or paths.index("/spec") < paths.index("/spec/keyID")


async def test_other_finalizers_stay() -> None:
    answer = await guard().stamp_root_key(review("CREATE", {"metadata": {"finalizers": ["x"]}}))
    assert added(answer.patch)["/metadata/finalizers"] == ["x", FINALIZER]


@pytest.mark.parametrize("origin", [None, "Generated", "Imported"])
async def test_a_given_key_id_needs_adopted(origin: str | None) -> None:
    obj = root_key() | {"spec": {"keyID": str(KEY_A)} | ({"origin": origin} if origin else {})}
    with pytest.raises(Refused, match="origin: Adopted"):
        await guard().stamp_root_key(review("CREATE", obj))


async def test_adopting_a_free_key_id() -> None:
    answer = await guard().stamp_root_key(review("CREATE", root_key(origin="Adopted")))
    assert "/spec/keyID" not in added(answer.patch)


async def test_one_root_key_per_key_id() -> None:
    with pytest.raises(Refused, match="held by RootKey rk"):
        await guard(root_key()).stamp_root_key(review("CREATE", root_key("rk2", origin="Adopted")))


def begun(*actions: str) -> Json:
    """Status of a KeyRecord in mid-destruction."""
    return {"state": "PendingDestruction", "transitions": [{"action": a} for a in actions]}


async def test_a_key_whose_destruction_has_begun_is_not_restored() -> None:
    kube = FakeKube(RECORDS, ROOT_KEY_URL)
    kube.put(RECORDS, str(KEY_A), status=begun("DestructionScheduled"))
    adopted = review("CREATE", root_key(origin="Adopted"))
    await guard(kube=kube).stamp_root_key(adopted)
    kube.put(RECORDS, str(KEY_A), status=begun("DestructionScheduled", "DestructionStarted"))
    with pytest.raises(Refused, match="cannot be restored any more"):
        await guard(kube=kube).stamp_root_key(adopted)


async def test_a_destruction_that_the_watch_has_not_seen_yet_counts() -> None:
    kube = FakeKube(RECORDS, ROOT_KEY_URL)
    kube.put(RECORDS, str(KEY_A), status={"state": "Destroyed"})
    with pytest.raises(Refused, match="is destroyed"):
        await guard(kube=kube).stamp_root_key(review("CREATE", root_key(origin="Adopted")))


async def test_a_destroyed_key_id_is_never_used_again() -> None:
    with pytest.raises(Refused, match="is destroyed"):
        await guard(records={KEY_A: KeyState.DESTROYED}).stamp_root_key(review("CREATE", root_key(origin="Adopted")))


@pytest.mark.parametrize("given", ["x", 5, ["x"]])
async def test_a_key_id_that_is_none(given: Any) -> None:
    with pytest.raises(Malformed, match="no UUID"):
        await guard().stamp_root_key(review("CREATE", {"metadata": {}, "spec": {"keyID": given, "origin": "Adopted"}}))


async def test_an_update_puts_back_what_a_replace_dropped() -> None:
    answer = await guard().stamp_root_key(review("UPDATE", {"metadata": {}, "spec": {}}, root_key()))
    assert added(answer.patch) == {"/spec/keyID": str(KEY_A), "/metadata/finalizers": [FINALIZER]}


async def test_a_finalizer_comes_off_while_the_object_is_deleted() -> None:
    obj = root_key(deleting=True)
    assert (await guard().stamp_root_key(review("UPDATE", obj, obj))).patch == []


@pytest.mark.parametrize("obj", [None, {}, {"metadata": None}])
async def test_no_object(obj: Json | None) -> None:
    with pytest.raises(Malformed):
        await guard().stamp_root_key(review("CREATE", obj))
    with pytest.raises(Malformed):
        await guard().stamp_authorization(review("CREATE", obj))


def guarded(**destruction: Any) -> Json:
    return root_key(destruction=destruction)


async def test_guards_are_weakened_only_by_what_they_ask_for() -> None:
    protected, free = guarded(protected=True), guarded(protected=False)
    for old, error in ((protected, PolicyNotFresh), (_counted(protected, 2), KeyProtected)):
        with pytest.raises(error, match="RootKey rk is protected"):
            await guard().stamp_root_key(review("UPDATE", free, old))
    assert FINALIZER in str((await guard().stamp_root_key(review("UPDATE", free, _counted(protected, 0)))).patch)
    with pytest.raises(PolicyNotFresh, match="has not taken note"):
        await guard().stamp_root_key(review("UPDATE", guarded(), guarded(gracePeriod="72h")))
    kube = FakeKube(RECORDS, ROOT_KEY_URL)
    kube.put(RECORDS, str(KEY_A), status={"guards": {"gracePeriod": "72h", "protected": False}})
    await guard(kube=kube).stamp_root_key(review("UPDATE", guarded(), guarded(gracePeriod="72h")))


def _counted(obj: Json, secrets: int) -> Json:
    counted = {"secrets": secrets, "namespaces": 1, "observedAt": rfc3339(utc_now())}
    return obj | {"status": obj["status"] | {"dependents": counted}}


@pytest.mark.parametrize("value", [5, {"a": 1}, "soon"])
async def test_a_grace_period_that_is_none(value: Any) -> None:
    with pytest.raises(Malformed):
        await guard().stamp_root_key(review("UPDATE", guarded(gracePeriod=value), guarded()))


# --- KeyAuthorizations

PATH = "/spec/rootKeyRef/keyID"


@pytest.mark.parametrize(
    ("objects", "new", "old", "expected"),
    [
        ([root_key()], authorization(key_id=None), None, {PATH: str(KEY_A)}),
        ([], authorization(key_id=None), None, {}),
        ([root_key(key_id=None)], authorization(key_id=None), None, {}),
        ([root_key(deleting=True)], authorization(key_id=None), None, {}),
        ([root_key()], authorization(), None, {}),
        ([], authorization(), None, {}),
        # What it was stamped with stays, whatever the name means by now.
        ([root_key(key_id=KEY_B)], authorization(key_id=None), authorization(), {PATH: str(KEY_A)}),
        ([root_key(key_id=KEY_B)], authorization(), authorization(), {}),
        ([root_key()], authorization(), authorization(key_id=None), {}),
    ],
)
async def test_stamping(objects: list[Json], new: Json, old: Json | None, expected: Json) -> None:
    answer = await guard(*objects).stamp_authorization(review("UPDATE" if old else "CREATE", new, old))
    assert added(answer.patch) == expected


@pytest.mark.parametrize("old", [None, authorization(key_id=None)])
async def test_the_key_id_of_another_root_key_is_refused(old: Json | None) -> None:
    forged = authorization(key_id=KEY_B)
    with pytest.raises(Refused, match="leave keyID out"):
        await guard(root_key(), root_key("rk2", KEY_B)).stamp_authorization(
            review("UPDATE" if old else "CREATE", forged, old)
        )


# --- deletes


async def test_an_admitted_delete_is_recorded_once_and_warned_of() -> None:
    obj = root_key()
    obj["status"]["dependents"] = {"secrets": 3, "namespaces": 2, "observedAt": "2026-01-01T00:00:00Z"}
    kube = with_root_key(obj)
    for _ in range(2):
        answer = await guard(obj, kube=kube).admit_delete(review("DELETE", None, obj))
    assert "sealed Secrets: 3, in namespaces: 2 (as of 2026-01-01T00:00:00Z)" in answer.warnings[0]
    transitions = kube.objects[RECORDS][str(KEY_A)]["status"]["transitions"]
    assert [(t["action"], t["by"], t["rootKeyUID"]) for t in transitions] == [
        ("Created", "key-admin", ""),
        ("DeleteAdmitted", "key-admin", "uid-rk"),
    ]


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_protected_key_is_not_deleted_while_secrets_depend_on_it(recorded: bool) -> None:
    """Nor one whose RootKey no longer says so, as long as the KeyRecord does."""
    obj = guarded() if recorded else guarded(protected=True)
    kube = with_root_key(_counted(obj, 1))
    if recorded:
        kube.put(RECORDS, str(KEY_A), status={"guards": {"gracePeriod": "0s", "protected": True}})
    for dry_run in (True, False):
        with pytest.raises(KeyProtected, match="1 sealed Secrets depend on it"):
            await guard(kube=kube).admit_delete(review("DELETE", None, _counted(obj, 1), dry_run=dry_run))
    with pytest.raises(PolicyNotFresh, match="not counted yet"):
        await guard(kube=kube).admit_delete(review("DELETE", None, obj))
    assert kube.created == []
    answer = await guard(kube=kube).admit_delete(review("DELETE", None, _counted(obj, 0), dry_run=True))
    assert answer.warnings


async def test_a_grace_period_is_told() -> None:
    obj = guarded(gracePeriod="72h")
    answer = await guard(kube=with_root_key(obj)).admit_delete(review("DELETE", None, obj))
    assert "after the grace period of 3 days, 0:00:00 for ever" in answer.warnings[0]


@pytest.mark.parametrize(
    ("operation", "old", "fields"),
    [
        ("DELETE", root_key(), {"dry_run": True}),
        ("DELETE", root_key(deleting=True), {}),
        ("DELETE", root_key(key_id=None), {}),
        ("UPDATE", root_key(), {}),
        ("DELETE", None, {}),
    ],
)
async def test_what_is_not_recorded(operation: str, old: Json | None, fields: dict[str, Any]) -> None:
    kube = with_root_key(root_key())
    answer = await guard(kube=kube).admit_delete(review(operation, None, old, **fields))
    assert kube.created == []
    assert bool(answer.warnings) is fields.get("dry_run", False)


@pytest.mark.parametrize(
    "live",
    [
        root_key("another"),
        root_key(key_id=KEY_B),
        root_key(deleting=True),
        root_key() | {"metadata": {"name": "rk", "uid": "newer"}},
    ],
)
async def test_a_review_that_the_object_itself_does_not_bear_out_records_nothing(live: Json) -> None:
    """Anybody may send one where the API server shows no certificate."""
    kube = with_root_key(live)
    await guard(kube=kube).admit_delete(review("DELETE", None, root_key()))
    assert kube.created == []


@pytest.mark.parametrize(
    "obj",
    [
        {"metadata": {"name": "x"}, "spec": "x"},
        {"metadata": {"name": "x"}, "spec": ["x"]},
        {"metadata": {"name": "x"}, "spec": {"rootKeyRef": "x"}},
    ],
)
async def test_objects_of_another_shape_are_malformed(obj: Json) -> None:
    """The schema is held against an object only after us."""
    with pytest.raises(Malformed, match="is not an object"):
        await guard().stamp_authorization(review("CREATE", obj))
    if not isinstance(obj["spec"], dict):
        with pytest.raises(Malformed, match="is not an object"):
            await guard().stamp_root_key(review("CREATE", obj))
        with pytest.raises(Malformed, match="is not an object"):
            await guard().admit_delete(review("DELETE", None, obj))


@pytest.mark.parametrize("collector", sorted(GARBAGE_COLLECTORS))
async def test_the_garbage_collector_destroys_nothing(collector: str) -> None:
    kube = with_root_key(root_key())
    with pytest.raises(Refused, match="never by garbage collection"):
        await guard(kube=kube).admit_delete(review("DELETE", None, root_key(), user=collector))
    assert kube.created == []


async def test_without_the_record_there_is_no_delete() -> None:
    kube = with_root_key(root_key())
    kube.errors[f"{RECORDS}/{KEY_A}"] = PolicyNotFresh("any error")
    with pytest.raises(PolicyNotFresh):
        await guard(kube=kube).admit_delete(review("DELETE", None, root_key()))


def test_allow_is_empty() -> None:
    assert (ALLOW.patch, ALLOW.warnings) == ((), ())


# --- floors

FLOORS = Floors(timedelta(hours=1), protected=False)


async def test_a_new_root_key_below_the_floors_is_refused() -> None:
    floored = replace(guard(), floors=FLOORS)
    with pytest.raises(Refused, match="gracePeriod 1h0m0s or more"):
        await floored.stamp_root_key(review("CREATE", {"metadata": {"name": "a"}, "spec": {}}))
    asked = {"metadata": {"name": "a"}, "spec": {"destruction": {"gracePeriod": "60m"}}}
    assert (await floored.stamp_root_key(review("CREATE", asked))).patch


async def test_one_from_before_the_floors_can_be_suspended_and_raised_and_not_destroyed() -> None:
    old = root_key("a")
    floored = replace(guard(old, kube=with_root_key(old)), floors=FLOORS)
    suspended = copy.deepcopy(old)
    suspended["spec"]["suspended"] = True
    await floored.stamp_root_key(review("UPDATE", suspended, old))
    with pytest.raises(Refused, match="set that first"):
        await floored.admit_delete(review("DELETE", None, old))
    raised = copy.deepcopy(old)
    raised["spec"]["destruction"] = {"gracePeriod": "1h"}
    await floored.stamp_root_key(review("UPDATE", raised, old))
    assert (await floored.admit_delete(review("DELETE", None, raised))).warnings
    with pytest.raises(Refused, match="set that first"):
        await floored.stamp_root_key(review("UPDATE", old, raised))
