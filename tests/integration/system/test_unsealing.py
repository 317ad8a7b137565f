"""Who may unseal, and what is answered, against the real API server."""

import json
from typing import Any

import pytest

from tests.cluster import accounts
from tests.cluster.keyshred import Keyshred
from tests.integration.controller.lab import until, until_equal
from tests.integration.system.tenant import AUDIENCE, READER, STRANGER, Tenant, authorization, root_key, secret

WEBHOOK = "system:serviceaccount:keyshred:keyshred-webhook"
CONTROLLER = "system:serviceaccount:keyshred:keyshred-controller"


def _pod(tenant: Tenant, name: str, refers: str, account: str = STRANGER) -> str:
    """A pod that names the Secret; returns its token. Nothing runs it."""
    spec = {
        "serviceAccountName": account,
        "containers": [{"name": "c", "image": "none"}],
        "imagePullSecrets": [{"name": refers}],
        "automountServiceAccountToken": False,
    }
    metadata = {"name": name, "namespace": tenant.name}
    tenant.kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return accounts.token(tenant.kubectl, tenant.name, account, audience=AUDIENCE, pod=name)


def _subjects(tenant: Tenant, subjects: list[dict[str, Any]] | None) -> None:
    patch = f"--patch={json.dumps({'spec': {'subjects': subjects}})}"
    tenant.kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", patch)


def _asked(tenant: Tenant, name: str, token: str, **headers: str) -> tuple[int, dict[str, str]]:
    status, _, answered = tenant.keyshred.unseal(
        tenant.name, name, token, {k.replace("_", "-"): v for k, v in headers.items()}
    )
    return status, answered


def test_a_living_pod_reads_what_it_refers_to(tenant: Tenant, other: Tenant) -> None:
    tenant.create_secret("mine", a="1")
    tenant.create_secret("not-mine", a="2")
    other.create_secret("mine", a="3")
    _subjects(tenant, None)
    bound = _pod(tenant, "reader", "mine")
    until_equal(lambda: tenant.ask("mine", bound)[0], 200)
    assert tenant.unseal("mine", bound) == {"a": "1"}
    assert tenant.ask("not-mine", bound)[0] == 403
    assert other.ask("mine", bound)[0] == 403, "another namespace's Secret of that name"
    assert tenant.ask("mine", tenant.token(STRANGER))[0] == 403, "bound to no pod"
    assert tenant.ask("mine", tenant.token(READER))[0] == 403, "no subject has allowUnbound any more"

    # The same name, another pod: the token is the first one's.
    second = {"namespace": tenant.name, "name": READER, "allowUnbound": False}
    _subjects(tenant, [second])
    until_equal(lambda: tenant.ask("mine", bound)[0], 403)
    named = _pod(tenant, "named", "mine", READER)
    assert tenant.unseal("mine", named) == {"a": "1"}
    done = json.dumps({"status": {"phase": "Succeeded"}})
    status = ("patch", "pod", "named", "-n", tenant.name, "--subresource=status", "--type=merge")
    tenant.kubectl.run(*status, f"--patch={done}")
    assert tenant.ask("mine", named)[0] == 403, "a pod that has ended"
    tenant.kubectl.run("delete", "pod", "named", "-n", tenant.name, "--force")
    again = _pod(tenant, "named", "mine", READER)
    assert tenant.ask("mine", named)[0] in (401, 403)
    assert tenant.ask("mine", again)[0] == 200
    tenant.kubectl.run("delete", "pod", "named", "-n", tenant.name, "--force")
    assert tenant.ask("mine", again)[0] in (401, 403), "the pod is read at each call"


def test_allow_unbound_reaches_across_namespaces_and_no_further(tenant: Tenant, other: Tenant) -> None:
    tenant.create_secret("app", a="one")
    outside = other.token(STRANGER)
    assert tenant.ask("app", outside)[0] == 403
    _subjects(tenant, [{"namespace": other.name, "name": STRANGER, "allowUnbound": True}])
    until_equal(lambda: tenant.ask("app", outside)[0], 200)
    assert tenant.ask("app", tenant.token(STRANGER))[0] == 403, "the same name in another namespace"
    assert tenant.ask("missing", outside)[0] == 404
    assert tenant.ask("missing", tenant.token(STRANGER))[0] == 403, "who has no rights does not learn what there is"
    assert other.ask("app", outside)[0] == 403


def test_tokens_that_are_no_good(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    for token in (
        "",
        "x",
        "e30.e30.e30",
        accounts.token(tenant.kubectl, tenant.name, READER),
        accounts.token(tenant.kubectl, tenant.name, READER, audience="vault"),
    ):
        status, headers = _asked(tenant, "app", token)
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer"


def test_a_deleted_service_account_is_refused(tenant: Tenant) -> None:
    """A review's answer is kept for ten seconds and no longer."""
    tenant.create_secret("app", a="one")
    token = tenant.token()
    assert tenant.ask("app", token)[0] == 200
    tenant.kubectl.run("delete", "serviceaccount", READER, "-n", tenant.name)
    until_equal(lambda: tenant.ask("app", token)[0], 401, 60)


def test_an_etag_spares_the_token_and_opens_nothing(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    token = tenant.token()
    status, headers = _asked(tenant, "app", token)
    etag = headers["ETag"]
    assert status == 200
    assert _asked(tenant, "app", token, If_None_Match=f'"other", {etag}')[0] == 304
    tenant.keyshred.token.take_away()
    try:
        assert _asked(tenant, "app", token, If_None_Match=etag)[0] == 304, "no operation of the token"
        assert _asked(tenant, "app", token)[0] == 503
    finally:
        tenant.keyshred.token.give_back()
        tenant.keyshred.webhook.wait_until(tenant.keyshred.is_ready)
    assert _asked(tenant, "app", tenant.token(STRANGER), If_None_Match=etag)[0] == 403
    tenant.kubectl.run("label", "secret", "app", "-n", tenant.name, "team=red")
    assert _asked(tenant, "app", token, If_None_Match=etag)[0] == 304
    tenant.kubectl.run("replace", "-f", "-", input=json.dumps(secret(tenant.name, "app", {"a": "two"})))
    status, headers = _asked(tenant, "app", token, If_None_Match=etag)
    assert status == 200 and headers["ETag"] != etag
    tenant.kubectl.run("patch", "rootkey", tenant.name, "--type=merge", '--patch={"spec": {"suspended": true}}')
    until_equal(lambda: _asked(tenant, "app", token, If_None_Match=headers["ETag"])[0], 403)
    tenant.kubectl.run("delete", "rootkey", tenant.name, "--timeout=180s")
    until_equal(lambda: _asked(tenant, "app", token, If_None_Match=headers["ETag"])[0], 410)


def test_the_end_of_a_key_is_known_to_a_webhook_that_starts_later(tenant: Tenant) -> None:
    """With no RootKey any more: its KeyRecord says that it is Destroyed, or that it will be after its grace period."""
    tenant.create_secret("app", a="one")
    tenant.delete_key()
    late = Tenant(tenant.keyshred, f"{tenant.name}-late")
    tenant.kubectl.run("create", "namespace", late.name)
    accounts.create(tenant.kubectl, late.name, READER)
    reader = {"namespace": late.name, "name": READER, "allowUnbound": True}
    key = root_key(late.name, destruction={"gracePeriod": "1h"})
    tenant.kubectl.apply(key, authorization(late.name, [late.name], subjects=[reader]))
    late.wait_ready()
    late.create_secret("app", a="one")
    assert late.unseal("app") == {"a": "one"}
    late.delete_key()

    tenant.keyshred.webhook.stop()
    tenant.keyshred.start_webhook()
    status, body = tenant.ask("app")
    assert status == 410 and "cannot be read again by anyone" in body["detail"]
    assert tenant.ask("app", tenant.token(STRANGER))[0] == 403
    status, body = late.ask("app")
    assert status == 403 and "PendingDestruction" in body["detail"]
    again = json.dumps(secret(late.name, "app", {"a": "one"}))
    assert "PendingDestruction" in tenant.kubectl.run("replace", "-f", "-", input=again, check=False).stderr
    late.kubectl.run("label", "secret", "app", "-n", late.name, "team=red")


def test_a_role_binding_is_the_only_right_to_read(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")
    token = tenant.token()
    assert tenant.ask("app", token)[0] == 200
    tenant.kubectl.run("create", "namespace", f"free-{tenant.name}")

    def can_i(user: str, *what: str) -> bool:
        return tenant.kubectl.run("auth", "can-i", *what, f"--as={user}", check=False).stdout.strip() == "yes"

    assert can_i(WEBHOOK, "get", "secrets", "-n", tenant.name)
    for user in (WEBHOOK, CONTROLLER):
        for verb in ("get", "list", "watch", "update", "patch", "create", "delete"):
            for where in (("-A",), ("-n", f"free-{tenant.name}"), ("-n", "kube-system"), ("-n", "keyshred")):
                # RBAC cannot narrow create to a name: in its own namespace the controller makes certificates.
                makes = (user, verb, where) == (CONTROLLER, "create", ("-n", "keyshred"))
                assert can_i(user, verb, "secrets", *where) is makes, (user, verb, where)
    tenant.keyshred.controller.stop()
    try:
        tenant.kubectl.run("delete", "rolebinding", "keyshred-secret-reader", "-n", tenant.name)
        until_equal(lambda: tenant.ask("app", token)[0], 503)
        status, headers = _asked(tenant, "app", token)
        assert status == 503 and headers["Retry-After"] == "1"
    finally:
        tenant.keyshred.start_controller()
    until_equal(lambda: tenant.ask("app", token)[0], 200)


def test_the_last_unseal_is_noted_once_a_minute(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one")

    def noted() -> str:
        return str(tenant.kubectl("get", "keyauthorization", tenant.name)["status"].get("lastUnsealTime", ""))

    assert tenant.ask("app", tenant.token(STRANGER))[0] == 403
    assert not noted()
    token = tenant.token()
    tenant.unseal("app", token)
    first = until(noted)
    for _ in range(20):
        tenant.unseal("app", token)
    assert noted() == first


@pytest.fixture(autouse=True)
def _ready(keyshred: Keyshred) -> None:
    """Tests here stop and start the webhook."""
    keyshred.webhook.wait_until(keyshred.is_ready)


def test_every_call_leaves_one_audit_line_and_no_value(tenant: Tenant) -> None:
    tenant.create_secret("app", a="one-in-the-audit")
    pod, log = _pod(tenant, "reader", "app", READER), tenant.keyshred.webhook.log
    seen = len(log.read_text())
    asked = [
        ("app", tenant.token(), 200, "Allowed"),
        ("app", pod, 200, "Allowed"),
        ("app", tenant.token(STRANGER), 403, "NotBoundToReferringPod"),
        ("missing", tenant.token(), 404, "NotFound"),
        ("app", "no.good.token", 401, "NotAuthenticated"),
    ]
    for name, token, status, _ in asked:
        assert tenant.ask(name, token)[0] == status
    written = [json.loads(line) for line in log.read_text()[seen:].splitlines() if line.startswith('{"audit"')]
    ours = [line for line in written if line["namespace"] == tenant.name]
    assert [(line["secret"], line["status"], line["verdict"]) for line in ours] == [(n, s, v) for n, _, s, v in asked]
    assert [line.get("keyID") for line in ours] == [tenant.key_id, tenant.key_id, None, None, None]
    assert [line.get("pod") for line in ours] == [None, "reader", None, None, None]
    assert ours[0]["serviceAccount"] == f"{tenant.name}/{READER}" and "serviceAccount" not in ours[-1]
    assert "one-in-the-audit" not in log.read_text()


def test_what_is_not_sealed_is_answered_as_it_is_to_those_who_may(tenant: Tenant) -> None:
    patch = json.dumps({"spec": {"secrets": {"exclude": {"names": ["open"]}}}})
    tenant.kubectl.run("patch", "keyauthorization", tenant.name, "--type=merge", f"--patch={patch}")
    tenant.expect_plaintext("open")
    manifest = json.dumps(secret(tenant.name, "open", {"a": "one"}))
    trial = ("create", "-f", "-", "--dry-run=server", "-o", "json")
    until(lambda: "keyshred.dev/envelope" not in tenant.kubectl.run(*trial, input=manifest).stdout)
    tenant.kubectl.run("create", "-f", "-", input=manifest)
    assert tenant.unseal("open", _pod(tenant, "reader", "open", READER)) == {"a": "one"}
    assert tenant.ask("open", _pod(tenant, "other", "app", READER))[0] == 403
    assert tenant.ask("open")[0] == 403, "no KeyAuthorization covers it, so unbound it is nobody's"
