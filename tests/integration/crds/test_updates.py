"""The CRDs on a real API server: what may change later."""

import pytest
from kubernetes import client

from tests.integration.crds.api import Api, Object, manifest, message_of
from tests.integration.crds.samples import APPROVAL, KEY_ID, LATE, OTHER_ID, REF, STAMPED


@pytest.mark.parametrize(
    ("kind", "before", "after", "message"),
    [
        ("RootKey", {}, {"keyID": KEY_ID}, None),
        ("RootKey", {"keyID": KEY_ID}, {"keyID": KEY_ID, "suspended": True, "expirationTime": LATE}, None),
        ("RootKey", {"keyID": KEY_ID}, {"keyID": OTHER_ID}, "keyID is immutable once set"),
        ("RootKey", {"keyID": KEY_ID}, {}, "keyID is immutable once set"),
        ("RootKey", {"keyID": KEY_ID}, None, "keyID is immutable once set"),
        ("RootKey", {"keyID": KEY_ID}, {"keyID": KEY_ID, "origin": "Adopted"}, "origin is immutable"),
        ("RootKey", {"keyID": KEY_ID, "origin": "Adopted"}, {"keyID": KEY_ID}, "origin is immutable"),
        ("KeyAuthorization", {"rootKeyRef": REF}, STAMPED, None),
        ("KeyAuthorization", STAMPED, STAMPED | {"namespaces": {"names": ["a"]}, "reapply": "AlwaysReseal"}, None),
        ("KeyAuthorization", STAMPED, {"rootKeyRef": REF | {"keyID": OTHER_ID}}, "keyID is immutable once set"),
        ("KeyAuthorization", STAMPED, {"rootKeyRef": REF}, "keyID is immutable once set"),
        (
            "KeyAuthorization",
            STAMPED,
            {"rootKeyRef": {"name": "other", "keyID": KEY_ID}},
            "rootKeyRef.name is immutable: delete this KeyAuthorization and create a new one",
        ),
    ],
)
def test_update(api: Api, kind: str, before: Object, after: Object | None, message: str | None) -> None:
    old = api.create(manifest(kind, before))
    body = {key: value for key, value in old.items() if key != "spec"} | ({} if after is None else {"spec": after})
    if message is None:
        stored = api.replace(body)["spec"]
        assert {key: stored[key] for key in after or ()} == after
        return
    with pytest.raises(client.ApiException) as refused:
        api.replace(body)
    assert message in message_of(refused)


def test_what_is_not_yet_will_be_accepted(later: Api) -> None:
    """The rest of the schema already is what those fields need, so that nothing but the refusal has to go."""
    fields: list[tuple[str, Object]] = [
        ("RootKey", {"origin": "Imported"}),
        ("RootKey", {"rotation": {"interval": "2160h", "keepVersions": False}}),
        ("RootKey", {"destruction": {"gracePeriod": "1h30m0.5s", "protected": True, "approvals": 10}}),
    ]
    for kind, spec in fields:
        stored = later.dry_run(manifest(kind, spec))["spec"]
        for field, value in spec.items():
            assert stored[field] == (stored[field] | value if isinstance(value, dict) else value)
    approval = later.create(manifest("DestructionApproval", APPROVAL))
    approval = later.replace(approval | {"metadata": approval["metadata"] | {"labels": {"a": "b"}}})
    with pytest.raises(client.ApiException) as refused:
        later.replace(approval | {"spec": APPROVAL | {"action": "Weaken"}})
    assert "the spec of a DestructionApproval is immutable" in message_of(refused)
