"""Bad input by HTTP and by kubectl: a clear refusal, no traceback, no crash, nothing lost."""

import json
import ssl
import urllib.error
import urllib.request
import warnings
from typing import Any

import pytest

from tests.cluster.apiserver import webhook_client
from tests.cluster.keyshred import Keyshred
from tests.cluster.pki import Pair
from tests.integration.system.tenant import AUDIENCE, Tenant, root_key

PLAINTEXT = "plaintext-in-bad-input"


def _post(keyshred: Keyshred, path: str, body: bytes, method: str = "POST") -> tuple[int, str]:
    """As the API server, by its certificate."""
    return _post_as(webhook_client(keyshred.cluster.authority), keyshred, path, body, method)


def _post_as(client: Pair | None, keyshred: Keyshred, path: str, body: bytes, method: str = "POST") -> tuple[int, str]:
    request = urllib.request.Request(f"{keyshred.url}{path}", data=body, method=method)
    try:
        with urllib.request.urlopen(request, context=keyshred.tls(client), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            assert error.headers["Content-Type"].startswith("application/problem+json")
            return error.code, error.read().decode()


def _review(**request: Any) -> bytes:
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1"} | request}
    ).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "1"}}',
        b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}',
        b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}}',
        b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "object": 1}}',
    ],
)
@pytest.mark.parametrize("route", ["secrets", "rootkeys", "rootkeys-delete", "keyauthorizations"])
def test_no_admission_review(keyshred: Keyshred, route: str, body: bytes) -> None:
    status, text = _post(keyshred, f"/admission/{route}", body)
    assert status == 400
    assert json.loads(text)["status"] == 400


@pytest.mark.parametrize(
    "secret",
    [
        {},
        {"metadata": 1},
        {"metadata": {"name": "a"}, "data": {"k": PLAINTEXT + "!"}},
        {"metadata": {"name": "a"}, "data": [PLAINTEXT]},
        {"metadata": {"name": "a"}, "data": {"k": {"v": PLAINTEXT}}},
        {"metadata": {"name": "a", "annotations": [PLAINTEXT]}, "data": {"k": ""}},
        {"metadata": {"name": "a"}, "stringData": {"k": PLAINTEXT}},
        {"metadata": {}, "data": {"k": ""}},
        {"metadata": {"name": "../../etc"}, "data": {"k": ""}},
        {"metadata": {"name": "a"}, "data": {"../k": ""}},
    ],
)
def test_an_object_that_is_no_secret_is_denied(tenant: Tenant, secret: dict[str, Any]) -> None:
    body = _review(operation="CREATE", namespace=tenant.name, name="", object=secret)
    status, text = _post(tenant.keyshred, "/admission/secrets", body)
    response = json.loads(text)["response"]
    assert (status, response["allowed"]) == (200, False)
    assert response["status"]["code"] == 400, response
    assert PLAINTEXT not in text and "Traceback" not in text


@pytest.mark.parametrize("route", ["secrets", "rootkeys", "rootkeys-delete", "keyauthorizations"])
def test_a_review_that_is_not_the_api_servers(keyshred: Keyshred, route: str) -> None:
    """Neither from a stranger nor from one whom the cluster's authority knows by another name."""
    member = keyshred.cluster.authority.issue("member", "member")
    for client in (None, member):
        status, text = _post_as(client, keyshred, f"/admission/{route}", _review(operation="CREATE"))
        assert (status, json.loads(text)["type"]) == (403, "urn:keyshred:problem:refused")


def test_an_oversized_review_is_turned_away(keyshred: Keyshred) -> None:
    assert _post(keyshred, "/admission/secrets", b" " * (8 * 1024 * 1024 + 1))[0] == 413
    keyshred.webhook.wait_until(keyshred.is_ready)


@pytest.mark.parametrize(("path", "method", "status"), [("/", "POST", 404), ("/admission/secrets", "GET", 405)])
def test_no_such_route(keyshred: Keyshred, path: str, method: str, status: int) -> None:
    assert _post(keyshred, path, b"", method)[0] == status


def test_old_tls_is_refused(keyshred: Keyshred) -> None:
    context = keyshred.tls()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    # Without this, Python's own floor would refuse and prove nothing about the server's.
    context.set_ciphers("ALL:@SECLEVEL=0")
    # The server's alert, or its end of the connection where that was faster.
    with pytest.raises(urllib.error.URLError, match=r"PROTOCOL_VERSION|UNEXPECTED_EOF"):
        urllib.request.urlopen(f"{keyshred.url}/livez", context=context, timeout=60)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "x" * 20000, "\u00e9"])
def test_no_token(keyshred: Keyshred, token: str) -> None:
    status, body, headers = keyshred.unseal("default", "any", token)
    assert status == 401, body
    assert headers["WWW-Authenticate"] == "Bearer"


def test_a_token_for_another_audience(tenant: Tenant) -> None:
    """The API server's own tokens, which every pod has, do not open anything here."""
    tenant.create_secret("app", a="one")
    token = tenant.kubectl.run("create", "token", "app", f"--namespace={tenant.name}").stdout.strip()
    assert tenant.ask("app", token)[0] == 401
    assert AUDIENCE not in token


@pytest.mark.parametrize("name", ["UPPER", "-", "a" * 254, "%2e%2e", "a%00b", "a%2fb"])
def test_names_that_are_none(tenant: Tenant, name: str) -> None:
    status, body, _ = tenant.keyshred.unseal(tenant.name, name, tenant.token())
    assert status in (400, 404), body


def test_a_secret_that_is_not_there(tenant: Tenant) -> None:
    """Who may read here learns that; a stranger learns nothing."""
    assert tenant.ask("nowhere")[0] == 404
    assert tenant.ask("nowhere", tenant.token("stranger"))[0] == 403


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"keyID": "6f2b7cde-6a4e-4f8a-9d3a-000000000001"}, "drawn by keyshred"),
        ({"origin": "Imported"}, "not yet"),
        ({"destruction": {"approvals": 1}}, "not yet"),
        ({"destruction": {"gracePeriod": "an hour"}}, "gracePeriod"),
        ({"rotation": {"keepVersions": False}}, "not yet"),
        ({"rotation": {"interval": "24h"}}, "not yet"),
        ({"origin": "Adopted"}, "keyID"),
    ],
)
def test_root_keys_that_cannot_be(keyshred: Keyshred, spec: dict[str, Any], message: str) -> None:
    done = keyshred.cluster.kubectl.run("create", "-f", "-", input=json.dumps(root_key("never", **spec)), check=False)
    assert done.returncode != 0 and message in done.stderr


def test_adopting_a_key_that_is_not_there_makes_none(keyshred: Keyshred) -> None:
    kubectl = keyshred.cluster.kubectl
    key_id = "6f2b7cde-6a4e-4f8a-9d3a-000000000002"
    kubectl.apply(root_key("absent", origin="Adopted", keyID=key_id))
    # Not Ready is also one whose token has not answered yet.
    reason = '--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=KeyMissing'
    kubectl.run("wait", reason, "rootkey/absent", "--timeout=180s")
    conditions = {c["type"]: c for c in kubectl("get", "rootkey", "absent")["status"]["conditions"]}
    assert conditions["Ready"]["status"] == "False"
    assert conditions["KeyMaterialPresent"]["status"] == "False"
