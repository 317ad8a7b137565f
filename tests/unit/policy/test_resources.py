"""RootKeys and KeyAuthorizations as parsed: nothing is guessed at."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyshred.errors import Malformed
from keyshred.names import BY_NAME_ONLY_TYPES, KeyState
from keyshred.policy.resources import Authorization, RootKey, SecretMeta, Subject
from tests.unit.fakes import KEY_A, NOW, authorization, root_key


def test_a_root_key() -> None:
    key = RootKey.parse(root_key(suspended=True, activationTime="2026-01-01T00:00:00Z"))
    assert (key.name, key.uid, key.key_id, key.recorded) == ("rk", "uid-rk", KEY_A, KeyState.ACTIVE)
    assert (key.suspended, key.deleting, key.current_version) == (True, False, 1)
    assert key.activation == datetime(2026, 1, 1, tzinfo=UTC)
    assert key.versions[1].check_value == b"\xab" * 16
    assert key.state(NOW) is KeyState.SUSPENDED


def test_a_root_key_that_nobody_has_looked_at() -> None:
    key = RootKey.parse({"metadata": {"name": "rk"}})
    assert (key.key_id, key.recorded, key.versions) == (None, KeyState.PRE_ACTIVATION, {})


def test_a_version_without_check_value_cannot_be_used() -> None:
    obj = root_key()
    del obj["status"]["versions"][0]["checkValue"]
    assert RootKey.parse(obj).versions == {}


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {}},
        {"spec": {"keyID": "x"}},
        {"spec": {"activationTime": "tomorrow"}},
        {"spec": {"expirationTime": "2026-01-01T00:00:00"}},  # no zone: no moment
        {"status": {"state": "Sleeping"}},
        {"status": {"versions": [{"version": 1, "mechanism": "DES", "checkValue": "ab"}]}},
        {"status": {"versions": [{"version": 1, "mechanism": "AES_GCM", "checkValue": "zz"}]}},
        {"spec": ["x"]},
    ],
)
def test_a_root_key_against_the_schema(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="RootKey"):
        RootKey.parse(root_key() | change)


def test_an_authorization() -> None:
    ka = Authorization.parse(
        authorization(
            subjects=[{"namespace": "n", "name": "s", "allowUnbound": True}, {"namespace": "n", "name": "t"}],
            reapply="AlwaysReseal",
        )
    )
    assert ka.subjects == (Subject("n", "s", True), Subject("n", "t", False))
    assert ka.always_reseal
    assert ka.operations == {"Seal", "Unseal"}
    assert (ka.root_key_name, ka.key_id) == ("rk", KEY_A)


@pytest.mark.parametrize(
    "spec",
    [
        {"rootKeyRef": {}},
        {"rootKeyRef": {"name": "rk", "keyID": "x"}},
        {"subjects": [{"name": "s"}]},
        {"expirationTime": "x"},
        {"namespaces": ["ns"]},
    ],
)
def test_an_authorization_against_the_schema(spec: dict[str, Any]) -> None:
    obj = authorization()
    with pytest.raises(Malformed, match="KeyAuthorization"):
        Authorization.parse({"metadata": obj["metadata"], "spec": obj["spec"] | spec})


def test_in_force() -> None:
    ends = NOW + timedelta(seconds=10)
    ka = Authorization.parse(authorization(expirationTime=ends.isoformat()))
    assert ka.in_force(ends - timedelta(microseconds=1))
    assert not ka.in_force(ends)
    assert not Authorization.parse(authorization(deleting=True)).in_force(NOW)
    assert Authorization.parse(authorization()).in_force(NOW)


@pytest.mark.parametrize(
    ("namespaces", "expected"),
    [
        ({"names": ["ns"]}, True),
        ({"names": ["other"]}, False),
        ({"selector": {"matchLabels": {"team": "a"}}}, True),
        ({"selector": {"matchLabels": {"team": "b"}}}, False),
        ({"names": ["ns"], "selector": {"matchLabels": {"team": "b"}}}, True),
        ({"selector": {}}, True),
        ({}, False),
    ],
)
def test_namespaces_are_a_union_and_none_means_none(namespaces: dict[str, Any], expected: bool) -> None:
    assert Authorization.parse(authorization(namespaces=namespaces)).selects_namespace("ns", {"team": "a"}) is expected


TLS = "kubernetes.io/tls"
APP = {"matchLabels": {"app": "x"}}


@pytest.mark.parametrize(
    ("secrets", "secret_type", "labels", "expected"),
    [
        ({}, "Opaque", {}, True),
        ({}, TLS, {}, False),
        ({"types": [TLS]}, TLS, {}, True),
        ({"types": [TLS]}, "Opaque", {}, False),
        ({"exclude": {"types": ["Opaque"]}}, "Opaque", {}, False),
        ({"exclude": {"types": [TLS]}}, "Opaque", {}, True),
        ({"exclude": {"names": ["s"]}}, "Opaque", {}, False),
        ({"exclude": {"names": ["t"]}}, "Opaque", {}, True),
        ({"selector": APP}, "Opaque", {"app": "x"}, True),
        ({"selector": APP}, "Opaque", {}, False),
        ({"exclude": {"selector": APP}}, "Opaque", {"app": "x"}, False),
        ({"exclude": {"selector": APP}}, "Opaque", {}, True),
        ({"selector": APP, "exclude": {"names": ["s"]}}, "Opaque", {"app": "x"}, False),
        ({"exclude": {"selector": {}}}, "Opaque", {}, False),
    ],
)
def test_secrets_are_an_intersection_less_what_is_excluded(
    secrets: dict[str, Any], secret_type: str, labels: dict[str, str], expected: bool
) -> None:
    ka = Authorization.parse(authorization(secrets=secrets))
    meta = SecretMeta("s", secret_type, labels)
    assert (ka.selects_type(meta.type, BY_NAME_ONLY_TYPES) and ka.selects_labels(meta)) is expected


def test_a_secret_without_type_is_opaque() -> None:
    assert SecretMeta.parse({"metadata": {"name": "s"}}) == SecretMeta("s", "Opaque", {})
