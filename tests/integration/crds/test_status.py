"""The CRDs on a real API server: statuses are kept as written, and the ledger only grows."""

import pytest
from kubernetes import client

from docs.generate_api import load
from tests.integration.crds.api import PLURALS, Api, Object, message_of
from tests.integration.crds.samples import (
    DESTROYED,
    EARLY,
    EVIDENCE,
    FULL_STATUS,
    OTHER_ID,
    VERSION,
    entries,
    sample,
)


@pytest.mark.parametrize("kind", FULL_STATUS)
def test_a_whole_status_is_kept_as_written(api: Api, kind: str) -> None:
    """Above all the ledger: it is hashed and signed, so nothing may be added, dropped or reformatted."""
    schema = load(PLURALS[kind])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert FULL_STATUS[kind].keys() == schema["properties"]["status"]["properties"].keys()
    body = api.create(sample(kind)) | {"status": FULL_STATUS[kind]}
    assert api.replace(body, status=True)["status"] == FULL_STATUS[kind]


@pytest.mark.parametrize("kind", FULL_STATUS)
def test_a_status_cannot_be_given_at_creation(api: Api, kind: str) -> None:
    assert "status" not in api.dry_run(sample(kind) | {"status": FULL_STATUS[kind]})


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"transitions": entries(2)}, {"transitions": entries(3)}, None),
        ({"transitions": []}, {"transitions": entries(1)}, None),
        ({"transitions": entries(2)}, {"transitions": entries(2), "message": "x"}, None),
        ({"transitions": entries(2)}, {"transitions": entries(1)}, "only ever appended"),
        ({"transitions": entries(2)}, {"transitions": entries(1, by="somebody-else")}, "only ever appended"),
        ({"transitions": entries(2)}, {"transitions": entries(3, detail="somebody-else")}, "only ever appended"),
        ({"transitions": entries(2)}, {"transitions": []}, "only ever appended"),
        ({"transitions": entries(2)}, {"state": "Active"}, "only ever appended"),
        ({"transitions": entries(2)}, None, "only ever appended"),
        ({"state": "Deactivated"}, DESTROYED, None),
        ({"state": "Active"}, {"state": "Destroyed"}, "Destroyed may only be said with evidence"),
        *(
            ({"state": "Active"}, DESTROYED | {"evidence": evidence}, "Destroyed may only be said with evidence")
            for evidence in (
                {k: v for k, v in EVIDENCE.items() if k != "outcome"},
                {k: v for k, v in EVIDENCE.items() if k != "destroyedAt"},
                {k: v for k, v in EVIDENCE.items() if k != "controls"},
                EVIDENCE | {"controls": {"after": {"passed": True}}},
                EVIDENCE | {"controls": {"after": {"keyFound": True}}},
                EVIDENCE | {"controls": {"after": {"keyFound": False, "canaryOpensUnderAnyKey": True}}},
            )
        ),
        (DESTROYED, DESTROYED | {"evidence": EVIDENCE | {"signed": True, "dsse": "{}"}}, None),
        (DESTROYED, DESTROYED | {"state": "Active"}, "Destroyed is final"),
        (DESTROYED, DESTROYED | {"evidence": EVIDENCE | {"outcome": "absenceObserved"}}, "Destroyed is final"),
        (DESTROYED, DESTROYED | {"evidence": EVIDENCE | {"destroyedAt": EARLY}}, "Destroyed is final"),
        (DESTROYED, {"transitions": entries(3)}, "Destroyed is final"),
        ({}, {"evidence": {"rootKeyName": "payments"}}, "evidence.keyID: Required value"),
        ({}, {"evidence": EVIDENCE | {"note": "x"}}, 'unknown field "status.evidence.note"'),
        ({}, {"versions": [VERSION, VERSION]}, "Duplicate value"),
        ({}, {"versions": [VERSION | {"checkValue": "0F" * 16}]}, "checkValue"),
        ({"versions": [VERSION]}, {"versions": [VERSION | {"wrapsReserved": 1 << 31}]}, None),
        ({}, {"versions": [VERSION | {"wrapsReserved": (1 << 31) + 1}]}, "wrapsReserved"),
        ({"versions": [VERSION]}, {"versions": [VERSION | {"wrapsReserved": 65535}]}, "wrapsReserved only grows"),
        ({"versions": [VERSION]}, {"versions": [{"version": 1}]}, "wrapsReserved only grows"),
        ({}, {"versions": [VERSION | {"canary": "a b"}]}, "canary"),
        ({}, {"transitions": entries(1, action="rotated")}, "action"),
        ({}, {"transitions": entries(1, prevHash="0")}, "prevHash"),
    ],
)
def test_ledger(api: Api, record: Object, before: Object, after: Object | None, message: str | None) -> None:
    old = api.replace(record | {"status": before}, status=True)
    new = {key: value for key, value in old.items() if key != "status"} | ({} if after is None else {"status": after})
    if message is None:
        assert api.replace(new, status=True)["status"] == after
        return
    with pytest.raises(client.ApiException) as refused:
        api.replace(new, status=True)
    assert message in message_of(refused)


def test_spec_of_a_key_record_is_immutable(api: Api, record: Object) -> None:
    with pytest.raises(client.ApiException) as refused:
        api.replace(record | {"spec": record["spec"] | {"rootKeyName": "other"}})
    assert "the spec of a KeyRecord is immutable" in message_of(refused)


def test_a_full_ledger_fits_and_can_still_be_appended_to(api: Api, record: Object) -> None:
    """500 versions, and 1,500 entries each with a user, a sentence and an RSA-2048 signature: below etcd's 1.5 MB."""
    versions = [VERSION | {"version": number} for number in range(1, 501)]
    evidence = EVIDENCE | {"versions": [v | {"version": n} for n in range(1, 501) for v in EVIDENCE["versions"]]}
    full = entries(1500, by="u" * 40, rootKeyUID=OTHER_ID, detail="d" * 80, signature="A" * 344)
    old = api.replace(record | {"status": {"versions": versions, "transitions": full[:-1]}}, status=True)
    status = {"state": "Destroyed", "versions": versions, "transitions": full, "evidence": evidence}
    assert len(api.replace(old | {"status": status}, status=True)["status"]["transitions"]) == 1500
