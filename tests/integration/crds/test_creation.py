"""The CRDs on a real API server: what it fills in, what it accepts, and what it refuses with which words."""

import pytest
from kubernetes import client

from keyshred import names
from tests.integration.crds.api import Api, Object, manifest, message_of
from tests.integration.crds.samples import APPROVAL, EARLY, KEY_ID, LATE, OTHER_ID, REF

DEFAULT_ROOT_KEY = {
    "algorithm": "AES_256",
    "origin": "Generated",
    "suspended": False,
    "rotation": {"keepVersions": True},
    "destruction": {"gracePeriod": "0s", "protected": False, "approvals": 0},
}
DEFAULT_AUTHORIZATION = {
    "rootKeyRef": REF,
    "mode": "Enforce",
    "operations": ["Seal", "Unseal"],
    "reapply": "Keep",
}


@pytest.mark.parametrize(
    ("kind", "spec", "stored"),
    [
        ("RootKey", None, DEFAULT_ROOT_KEY),
        ("RootKey", {}, DEFAULT_ROOT_KEY),
        ("RootKey", {"rotation": {}, "destruction": {"protected": False}}, DEFAULT_ROOT_KEY),
        ("KeyAuthorization", {"rootKeyRef": REF}, DEFAULT_AUTHORIZATION),
        (
            "KeyAuthorization",
            {"rootKeyRef": REF, "subjects": [{"namespace": "a", "name": "b"}]},
            DEFAULT_AUTHORIZATION | {"subjects": [{"namespace": "a", "name": "b", "allowUnbound": False}]},
        ),
    ],
)
def test_defaults(api: Api, kind: str, spec: Object | None, stored: Object) -> None:
    assert api.dry_run(manifest(kind, spec))["spec"] == stored


SELECTOR = {
    "matchLabels": {"team": "payments", "example.org/tier": "", "a": "b_c.d"},
    "matchExpressions": [
        {"key": "example.org/tier", "operator": "NotIn", "values": ["dev"]},
        {"key": "gone", "operator": "DoesNotExist"},
    ],
}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("RootKey", {"keyID": KEY_ID}),
        ("RootKey", {"origin": "Adopted", "keyID": KEY_ID}),
        ("RootKey", {"suspended": True, "activationTime": EARLY, "expirationTime": LATE}),
        ("RootKey", {"expirationTime": "2027-01-01T00:00:00+02:00"}),
        ("RootKey", {"destruction": {"gracePeriod": "0h0m0.0s", "protected": False, "approvals": 0}}),
        ("KeyAuthorization", {"rootKeyRef": {"name": "a.b-c", "keyID": KEY_ID}}),
        ("KeyAuthorization", {"rootKeyRef": REF, "namespaces": {}, "secrets": {}}),
        ("KeyAuthorization", {"rootKeyRef": REF, "namespaces": {"names": [], "selector": {}}}),
        ("KeyAuthorization", {"rootKeyRef": REF, "namespaces": {"names": ["default", "a-1"], "selector": SELECTOR}}),
        ("KeyAuthorization", {"rootKeyRef": REF, "secrets": {"selector": SELECTOR, "types": ["kubernetes.io/tls"]}}),
        (
            "KeyAuthorization",
            {
                "rootKeyRef": REF,
                "secrets": {"types": ["a"], "exclude": {"names": ["db"], "types": ["b"], "selector": SELECTOR}},
            },
        ),
        ("KeyAuthorization", {"rootKeyRef": REF, "operations": ["Unseal", "Seal"], "reapply": "AlwaysReseal"}),
        ("KeyAuthorization", {"rootKeyRef": REF, "mode": "Preview"}),
        ("KeyAuthorization", {"rootKeyRef": REF, "mode": "Release", "operations": ["Unseal"]}),
        ("KeyAuthorization", {"rootKeyRef": REF, "expirationTime": LATE, "reason": "ticket 17: rotate § 3"}),
        ("KeyRecord", {"keyID": KEY_ID, "rootKeyName": "payments"}),
    ],
)
def test_accepted_and_kept(api: Api, kind: str, spec: Object) -> None:
    stored = api.dry_run(manifest(kind, spec, name=spec["keyID"] if kind == "KeyRecord" else ""))["spec"]
    assert {key: stored[key] for key in spec} == spec


UUID_PATTERN = "should match '^[0-9a-f]{8}-"
TIMES = [
    "2027-01-01t00:00:00z",
    "2027-02-31T00:00:00Z",
    "2027-01-01",
    "2027-01-01T00:00:00",
    "2027-01-01T24:00:00Z",
    "soon",
]
DURATIONS = ["1d", "-1s", "5", "", "1 h", "1h ", "1µs", "99999999999h"]


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        # not yet
        ("RootKey", {"origin": "Imported"}, "not yet: origin Imported"),
        ("RootKey", {"rotation": {"interval": "2160h"}}, "not yet: rotation.interval"),
        ("RootKey", {"rotation": {"keepVersions": False}}, "not yet: rotation.keepVersions"),
        ("RootKey", {"destruction": {"approvals": 1}}, "not yet: destruction.approvals"),
        ("DestructionApproval", APPROVAL, "not yet: DestructionApproval"),
        # contradictions
        ("RootKey", {"origin": "Adopted"}, "origin Adopted needs keyID"),
        ("RootKey", {"activationTime": LATE, "expirationTime": EARLY}, "expirationTime must be after"),
        ("RootKey", {"activationTime": EARLY, "expirationTime": EARLY}, "expirationTime must be after"),
        # Go takes an offset of a whole day, Python does not: such a RootKey could not be read.
        ("RootKey", {"expirationTime": "2030-01-01T00:00:00+24:00"}, "should match"),
        ("RootKey", {"activationTime": "2030-01-01T00:00:00-24:00"}, "should match"),
        ("RootKey", {"activationTime": "1969-12-31T23:59:59Z"}, "activationTime must be a time after 1970"),
        ("RootKey", {"expirationTime": "0001-01-01T00:00:00Z"}, "expirationTime must be a time after 1970"),
        (
            "KeyAuthorization",
            {"rootKeyRef": REF, "expirationTime": "0001-01-01T00:00:00Z"},
            "expirationTime must be a time after 1970",
        ),
        ("RootKey", {"rotation": {"interval": "0s"}}, "rotation.interval must be more than 0s"),
        ("RootKey", {"rotation": {"interval": "87601h"}}, "rotation.interval must be more than 0s and at most"),
        ("RootKey", {"destruction": {"gracePeriod": "87601h"}}, "destruction.gracePeriod must be at most"),
        ("RootKey", {"destruction": {"approvals": 11}}, "less than or equal to 10"),
        ("RootKey", {"destruction": {"approvals": -1}}, "greater than or equal to 0"),
        ("KeyAuthorization", {"rootKeyRef": REF, "operations": ["Seal"]}, "add Unseal"),
        ("KeyAuthorization", {"rootKeyRef": REF, "operations": []}, "add Unseal"),
        ("KeyAuthorization", {"rootKeyRef": REF, "operations": ["Unseal", "Unseal"]}, "Duplicate value"),
        ("KeyAuthorization", {"rootKeyRef": REF, "subjects": []}, "an empty list is ambiguous"),
        (
            "KeyAuthorization",
            {"rootKeyRef": REF, "subjects": [{"namespace": "a", "name": "b"}, {"namespace": "a", "name": "b"}]},
            "Duplicate value",
        ),
        ("KeyAuthorization", {"rootKeyRef": REF, "secrets": {"types": []}}, "would select no Secret"),
        (
            "KeyAuthorization",
            {"rootKeyRef": REF, "secrets": {"types": ["a", "b"], "exclude": {"types": ["b"]}}},
            "both in types and in exclude.types",
        ),
        ("KeyAuthorization", {"rootKeyRef": REF, "secrets": {"exclude": {"selector": {}}}}, "exclude.selector"),
        *(
            ("KeyAuthorization", {"rootKeyRef": REF, "namespaces": {"names": ["a", name]}}, "never sealed: remove")
            for name in sorted(names.NEVER_SEALED_NAMESPACES)
        ),
        *(
            ("KeyAuthorization", {"rootKeyRef": REF, "secrets": {"types": [name]}}, "never sealed, because")
            for name in sorted(names.NEVER_SEALED_TYPES)
        ),
        # shapes
        *(
            ("RootKey", {"keyID": bad}, UUID_PATTERN)
            for bad in (KEY_ID.upper(), KEY_ID.replace("-", "0"), f"{{{KEY_ID[2:]}}}")
        ),
        ("RootKey", {"keyID": KEY_ID + "0"}, "may not be more than 36"),
        ("RootKey", {"keyID": ""}, "at least 36 chars"),
        *(("RootKey", {field: bad}, "date-time") for field in ("activationTime", "expirationTime") for bad in TIMES),
        *(("KeyAuthorization", {"rootKeyRef": REF, "expirationTime": bad}, "date-time") for bad in TIMES),
        *(
            ("RootKey", {field: {name: bad}}, f"spec.{field}.{name}")
            for field, name in (("rotation", "interval"), ("destruction", "gracePeriod"))
            for bad in DURATIONS
        ),
        ("RootKey", {"algorithm": "AES_128"}, "Unsupported value"),
        ("RootKey", {"origin": "generated"}, "Unsupported value"),
        ("KeyAuthorization", {"rootKeyRef": REF, "mode": "Off"}, "Unsupported value"),
        ("KeyAuthorization", {"rootKeyRef": REF, "reapply": "Never"}, "Unsupported value"),
        ("KeyAuthorization", {"rootKeyRef": REF, "operations": ["Seal", "Unseal", "Wrap"]}, "Unsupported value"),
        ("KeyAuthorization", None, "spec: Required value"),
        ("KeyAuthorization", {}, "spec.rootKeyRef: Required value"),
        ("KeyAuthorization", {"rootKeyRef": {}}, "spec.rootKeyRef.name: Required value"),
        ("KeyAuthorization", {"rootKeyRef": {"name": "Payments"}}, "spec.rootKeyRef.name"),
        ("KeyAuthorization", {"rootKeyRef": {"name": "a" * 64}}, "may not be more than 63"),
        ("KeyAuthorization", {"rootKeyRef": REF | {"keyID": KEY_ID.upper()}}, UUID_PATTERN),
        ("KeyAuthorization", {"rootKeyRef": REF, "namespaces": {"names": ["a.b"]}}, "spec.namespaces.names[0]"),
        ("KeyAuthorization", {"rootKeyRef": REF, "namespaces": {"names": ["a", "a"]}}, "Duplicate value"),
        ("KeyAuthorization", {"rootKeyRef": REF, "subjects": [{"name": "b"}]}, "namespace: Required value"),
        ("KeyAuthorization", {"rootKeyRef": REF, "subjects": [{"namespace": "a"}]}, "name: Required value"),
        *(
            ("KeyAuthorization", {"rootKeyRef": REF, "namespaces": {"selector": bad}}, message)
            for bad, message in [
                ({"matchLabels": {"a/b/c": "x"}}, "not a valid label key"),
                ({"matchLabels": {"a": "x_"}}, "matchLabels.a"),
                ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "need at least one value"),
                ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]}, "need at least one value"),
                ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}, "take none"),
                ({"matchExpressions": [{"key": "a", "operator": "Equals"}]}, "Unsupported value"),
                ({"matchExpressions": [{"key": "a b", "operator": "Exists"}]}, "matchExpressions[0].key"),
                ({"matchExpressions": [{"key": "a"}]}, "operator: Required value"),
            ]
        ),
        ("KeyRecord", {"keyID": KEY_ID}, "spec.rootKeyName: Required value"),
        ("KeyRecord", {"rootKeyName": "payments"}, "spec.keyID: Required value"),
        ("DestructionApproval", APPROVAL | {"rootKeyRef": REF}, "spec.rootKeyRef.keyID: Required value"),
        ("DestructionApproval", {k: v for k, v in APPROVAL.items() if k != "approver"}, "approver: Required value"),
        # unknown fields
        ("RootKey", {"keyId": KEY_ID}, 'unknown field "spec.keyId"'),
        ("RootKey", {"destruction": {"grace": "1h"}}, 'unknown field "spec.destruction.grace"'),
        ("KeyAuthorization", {"rootKeyRef": REF, "namespace": "a"}, 'unknown field "spec.namespace"'),
        (
            "KeyAuthorization",
            {"rootKeyRef": REF, "namespaces": {"selector": {"matchLabel": {}}}},
            'unknown field "spec.namespaces.selector.matchLabel"',
        ),
    ],
)
def test_refused(api: Api, kind: str, spec: Object | None, message: str) -> None:
    with pytest.raises(client.ApiException) as refused:
        api.dry_run(manifest(kind, spec, name=KEY_ID if kind == "KeyRecord" else ""))
    assert message in message_of(refused)


@pytest.mark.parametrize(("length", "fits"), [(63, True), (64, False)])
def test_name_of_a_root_key_fits_in_a_label(api: Api, length: int, fits: bool) -> None:
    body = manifest("RootKey", {}, name="k" * length)
    if fits:
        assert api.dry_run(body)["metadata"]["name"] == "k" * length
        return
    with pytest.raises(client.ApiException) as refused:
        api.dry_run(body)
    assert "choose a shorter name" in message_of(refused)


def test_a_key_record_is_named_by_its_key_id(api: Api) -> None:
    with pytest.raises(client.ApiException) as refused:
        api.dry_run(manifest("KeyRecord", {"keyID": KEY_ID, "rootKeyName": "payments"}, name=OTHER_ID))
    assert "make metadata.name equal to spec.keyID" in message_of(refused)
