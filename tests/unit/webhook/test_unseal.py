"""The server's routes, and the unseal call from the request to its audit line."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from keyshred.errors import HsmUnavailable, KeyMissing, KubeUnavailable, Refused, TokenBroken
from keyshred.kube.client import own_path
from keyshred.names import ANNOTATION_ENVELOPE, KeyState
from keyshred.policy.authorizations import Policy
from tests.unit.fakes import KEY_A, NOW, authorization, policy, root_key, settle
from tests.unit.webhook.unseal_server import ANYONE, POD, PODS, SECRETS, VALUES, Json, Server

PAST = (NOW - timedelta(seconds=1)).isoformat()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.seal(VALUES)
    async with server.running():
        yield server


def audited(capfd: pytest.CaptureFixture[str]) -> list[Json]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


# --- 200 and 304


async def test_unseal(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    status, body, headers = await server.unseal()
    assert status == 200
    assert {k: base64.b64decode(v) for k, v in body["data"].items()} == VALUES
    assert headers["Cache-Control"] == "no-store"
    assert server.token.calls == ["unwrap"]
    (line,) = audited(capfd)
    del line["time"]
    assert line == {
        "audit": "unseal",
        "status": 200,
        "verdict": "Allowed",
        "namespace": "ns",
        "secret": "s",
        "serviceAccount": "ns/app",
        "pod": "p",
        "podUID": "uid-p",
        "keyID": str(KEY_A),
        "keyVersion": 1,
    }


async def test_the_answer_names_the_key(server: Server) -> None:
    _, _, headers = await server.unseal()
    assert headers["Keyshred-Key-ID"] == str(KEY_A)
    status, _, headers = await server.unseal(If_None_Match=headers["ETag"])
    assert (status, headers["Keyshred-Key-ID"]) == (304, str(KEY_A))
    server.store("t", {"a": "b25l"})
    assert "Keyshred-Key-ID" not in (await server.unseal("t"))[2]


@pytest.mark.parametrize("state", [None, *KeyState])
async def test_whether_a_key_is_destroyed(server: Server, state: KeyState | None) -> None:
    server.snapshot.now = policy(records={KEY_A: state} if state else {})
    async with server.client.get(f"/v1/keys/{KEY_A}", headers={"Authorization": "Bearer e30.e30.x"}) as response:
        assert response.status == (410 if state is KeyState.DESTROYED else 204)
        assert response.headers["Cache-Control"] == "no-store"


async def test_who_may_ask_about_keys_and_for_what(server: Server) -> None:
    for path, headers, status in (
        (f"/v1/keys/{KEY_A}", {}, 401),
        ("/v1/keys/no-uuid", {"Authorization": "Bearer e30.e30.x"}, 400),
    ):
        async with server.client.get(path, headers=headers) as response:
            assert response.status == status


async def test_an_etag_saves_the_token_the_work(server: Server) -> None:
    _, _, headers = await server.unseal()
    server.token.calls.clear()
    status, body, again = await server.unseal(If_None_Match=headers["ETag"])
    assert (status, body, again["ETag"]) == (304, None, headers["ETag"])
    assert server.token.calls == []
    await server.seal(VALUES)
    assert (await server.unseal(If_None_Match=headers["ETag"]))[0] == 200


async def test_an_etag_opens_nothing(server: Server) -> None:
    _, _, headers = await server.unseal()
    server.snapshot.now = policy(root_key(suspended=True), authorization())
    status, _, refused = await server.unseal(If_None_Match=headers["ETag"])
    assert status == 403
    assert "ETag" not in refused


async def test_what_is_not_sealed_is_answered_as_it_is(server: Server) -> None:
    server.store("t", {"a": "b25l"})
    status, body, _ = await server.unseal("t")
    assert (status, body) == (200, {"data": {"a": "b25l"}})
    assert server.token.calls == []


# --- refusals


@pytest.mark.parametrize("header", ["", "Basic x", "Bearer "])
async def test_401(server: Server, header: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, body, headers = await server.unseal(Authorization=header)
    assert (status, body["type"]) == (401, "urn:keyshred:problem:not-authenticated")
    assert headers["WWW-Authenticate"] == "Bearer"
    assert [line["verdict"] for line in audited(capfd)] == ["NotAuthenticated"]


@pytest.mark.parametrize(
    ("caller", "secret", "verdict"),
    [
        (("ns", "app"), "s", "NotBoundToReferringPod"),
        (("ns", "app", "p", "uid-of-another"), "s", "NotBoundToReferringPod"),
        (("ns", "app", "gone", "u"), "s", "NotBoundToReferringPod"),
        (("ns", "app", "p", "uid-p"), "not-referred-to", "NotBoundToReferringPod"),
        (("other", "app", "p", "uid-p"), "s", "NotBoundToReferringPod"),
    ],
)
async def test_403(
    server: Server, caller: tuple[str, ...], secret: str, verdict: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server.caller(*caller)
    status, body, headers = await server.unseal(secret)
    assert (status, body["detail"]) == (403, "not authorised to unseal this Secret")
    assert "ETag" not in headers
    assert f"{SECRETS}/{secret}" not in server.kube.calls  # the Secret is not even read
    assert [line["verdict"] for line in audited(capfd)] == [verdict]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_pod_that_has_ended(server: Server, phase: str) -> None:
    server.kube.put(PODS, "p", metadata={"uid": "uid-p"}, **(POD | {"status": {"phase": phase}}))
    assert (await server.unseal())[0] == 403


async def test_404_only_for_who_has_rights(server: Server) -> None:
    assert (await server.unseal("t"))[0] == 404
    server.caller("ns", "app")
    assert (await server.unseal("t"))[0] == 403


async def test_damage_is_told_only_to_who_may_read(server: Server) -> None:
    server.snapshot.now = policy(root_key(), authorization(**ANYONE, secrets={"exclude": {"names": ["t"]}}))
    server.caller("ns", "app")
    server.store("t", {"a": "S1NIMQ=="})
    assert (await server.unseal("t"))[0] == 403


@pytest.mark.parametrize(
    ("objects", "records", "status", "kind"),
    [
        ([root_key(suspended=True)], {}, 403, "refused"),
        ([root_key(deleting=True)], {}, 403, "refused"),
        ([root_key(state="PreActivation")], {}, 403, "refused"),
        ([root_key(expirationTime=PAST)], {}, 200, None),
        ([], {}, 403, "refused"),
        ([], {KEY_A: KeyState.DESTROYED}, 410, "key-destroyed"),
        ([root_key()], {KEY_A: KeyState.DESTROYED}, 410, "key-destroyed"),
    ],
)
async def test_key_states(
    server: Server, objects: list[Json], records: dict[Any, KeyState], status: int, kind: str | None
) -> None:
    server.snapshot.now = policy(*objects, authorization(), records=records)
    got, body, headers = await server.unseal()
    assert got == status
    if kind:
        assert body["type"] == f"urn:keyshred:problem:{kind}"
        assert headers["Content-Type"].startswith("application/problem+json")
        assert server.token.calls == []


async def test_a_key_that_is_deleted_while_the_token_works(server: Server) -> None:
    unwrap = server.token.unwrap

    async def slow(*arguments: Any) -> bytes:
        opened = await unwrap(*arguments)
        server.snapshot.now = policy(root_key(deleting=True), authorization())
        return opened

    server.token.unwrap = slow  # type: ignore[method-assign,assignment]
    status, body, _ = await server.unseal()
    assert status == 403
    assert "data" not in body


@pytest.mark.parametrize(
    ("confirmed", "status"),
    [
        (policy(root_key(deleting=True), authorization()), 403),
        (policy(authorization(), records={KEY_A: KeyState.DESTROYED}), 410),
        (None, 503),
    ],
    ids=["deleted", "destroyed", "lost"],
)
async def test_a_key_that_the_token_no_longer_has(server: Server, confirmed: Policy | None, status: int) -> None:
    """Destroyed within the second that a policy may be old, or lost: the newest policy says which."""
    server.token.error, server.snapshot.next = KeyMissing("the token does not hold it"), confirmed
    answered, body, headers = await server.unseal()
    assert answered == status and "data" not in body
    assert headers.get("Retry-After") == ("60" if confirmed is None else None)


async def test_who_was_served_is_noted(server: Server) -> None:
    await server.unseal()
    server.caller("ns", "app")
    await server.unseal()  # bound to no pod: refused
    await settle()
    assert [url for url, _ in server.kube.patched] == [own_path("keyauthorizations", "ka", "status")]


@pytest.mark.parametrize(
    ("name", "data", "envelope"),
    [
        ("t", {"a": "S1NIMQ=="}, None),
        ("t", {"a": "b25l"}, "{}"),
        ("t", {"a": "b25l"}, "s's"),
        ("s", {"a": "b25l"}, "s's"),
        ("s", {"a": base64.b64encode(b"KSH1" + bytes(40)).decode()}, "s's"),
    ],
)
async def test_damaged(server: Server, name: str, data: Json, envelope: str | None) -> None:
    if envelope == "s's":
        envelope = server.kube.objects[SECRETS]["s"]["metadata"]["annotations"][ANNOTATION_ENVELOPE]
    server.store(name, data, envelope)
    status, body, _ = await server.unseal(name)
    assert (status, body["type"]) == (422, "urn:keyshred:problem:damaged")


@pytest.mark.parametrize(
    ("where", "error", "retry"),
    [
        ("token", HsmUnavailable("away"), "1"),
        ("token", TokenBroken("odd"), "60"),
        (f"{SECRETS}/s", KubeUnavailable("away"), "1"),
        (f"{SECRETS}/s", Refused("no RoleBinding yet"), "1"),
        (f"{PODS}/p", KubeUnavailable("away"), "1"),
        (f"{PODS}/p", Refused("no RoleBinding yet"), "1"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", KubeUnavailable("away"), "1"),
        ("policy", None, "1"),
    ],
)
async def test_503(server: Server, where: str, error: Exception | None, retry: str) -> None:
    match where:
        case "token":
            server.token.error = error
        case "policy":
            server.snapshot.now = None
        case url:
            assert error is not None
            server.kube.errors[url] = error
    status, _, headers = await server.unseal()
    assert (status, headers["Retry-After"]) == (503, retry)


@pytest.mark.parametrize("name", ["UPPER", "a%2Fb", "%0A", "x" * 254, "%FF", "ü", "%ED%A0%80"])
async def test_names_that_are_none(server: Server, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert (await server.unseal(name))[0] == 400
    assert len(audited(capfd)) == 1
    assert server.kube.created == []


async def test_a_bug_gives_nothing_out(
    server: Server, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    server.token.error = ValueError("swordfish")  # as if it quoted a value
    status, body, _ = await server.unseal()
    assert (status, body["detail"]) == (500, "keyshred failed to answer; nothing was given out")
    assert [line["verdict"] for line in audited(capfd)] == ["InternalError"]
    assert "ValueError" in caplog.text
    assert "swordfish" not in caplog.text


# --- the other routes


def review(**request: Any) -> Json:
    asked = {"uid": "u1", "operation": "CREATE", "namespace": "ns", "name": "new", "userInfo": {"username": "u"}}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked | request}


SECRET = {"metadata": {"name": "new"}, "data": {"a": "b25l"}}


async def admission(server: Server, body: Any, route: str = "secrets") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with server.client.post(f"/admission/{route}", data=data) as response:
        return response.status, json.loads(await response.read())


async def test_admission_never_answers_with_plaintext(server: Server) -> None:
    status, body = await admission(server, review(object=SECRET))
    assert (status, body["response"]["allowed"], body["response"]["uid"]) == (200, True, "u1")
    patch = json.loads(base64.b64decode(body["response"]["patch"]))
    (data,) = (operation["value"] for operation in patch if operation["path"] == "/data")
    assert base64.b64decode(data["a"]).startswith(b"KSH1")


async def test_admission_refuses(server: Server) -> None:
    server.token.error = HsmUnavailable("the token is away")
    status, body = await admission(server, review(object=SECRET))
    assert (status, body["response"]["allowed"]) == (200, False)
    assert body["response"]["status"]["code"] == 503


@pytest.mark.parametrize("error", [ValueError("b25l"), TokenBroken("odd")])
async def test_an_admission_that_fails(server: Server, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    server.token.error = error
    _, body = await admission(server, review(object=SECRET))
    assert body["response"]["status"]["code"] == 500
    assert "b25l" not in json.dumps(body) + caplog.text
    assert "CREATE of ns/new" in caplog.text


@pytest.mark.parametrize(
    ("route", "obj"),
    [
        ("rootkeys", {"metadata": {"name": "rk2"}}),
        ("keyauthorizations", authorization("ka2", key_id=None)),
        ("rootkeys-delete", None),
    ],
)
async def test_every_route_answers(server: Server, route: str, obj: Json | None) -> None:
    status, body = await admission(server, review(object=obj), route)
    assert (status, body["response"]["allowed"]) == (200, True)


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{}", 400), (b"x" * 4097, 413)], ids=["empty", "no review", "large"]
)
async def test_what_is_no_review(server: Server, body: bytes, status: int) -> None:
    got, problem = await admission(server, body)
    assert (got, problem["status"]) == (status, status)


async def test_no_such_path_or_method(server: Server) -> None:
    assert (await admission(server, b"", "nothing"))[0] == 404
    async with server.client.get("/v1/namespaces/ns/secrets/s/unseal") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_health(server: Server) -> None:
    async def status(route: str) -> int:
        async with server.client.get(route) as response:
            return response.status

    assert (await status("/livez"), await status("/readyz")) == (200, 200)
    server.token.error = HsmUnavailable("away")
    assert (await status("/livez"), await status("/readyz")) == (200, 503)
    server.token.error, server.snapshot.now = None, None
    assert (await status("/livez"), await status("/readyz")) == (200, 503)
