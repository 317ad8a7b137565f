"""Nothing but an admitted delete destroys a key."""

import json
import subprocess
from uuid import UUID

from tests.cluster.keyshred import Keyshred
from tests.cluster.softhsm import MODULE, SoftHsm
from tests.integration.system.tenant import Tenant, authorization, root_key


def test_deleting_the_crd_loses_no_key(own: Keyshred) -> None:
    tenant = Tenant.create(own)
    tenant.create_secret("database", password="still-there-afterwards")
    key_id = tenant.key_id
    before = _objects(own.token)

    own.break_glass()
    tenant.kubectl.run("delete", "crd", "rootkeys.keyshred.dev", "--timeout=180s")

    assert _objects(own.token) == before and str(UUID(key_id)) in before
    record = tenant.record(key_id)
    assert record["state"] != "Destroyed" and record["transitions"][-1]["action"] == "Kept"
    # 403 while the API server still serves an empty list, 503 once there is nothing to list.
    assert tenant.ask("database")[0] in (403, 503)
    refused = tenant.kubectl.run(
        *("create", "secret", "generic", "now", "--from-literal=a=b", f"--namespace={tenant.name}"), check=False
    )
    assert refused.returncode != 0

    own.install_crds()
    adopted = root_key(tenant.name, origin="Adopted", keyID=key_id)
    own.webhook.wait_until(
        lambda: tenant.kubectl.run("create", "-f", "-", input=json.dumps(adopted), check=False).returncode == 0
    )
    tenant.wait_ready()
    assert tenant.unseal("database") == {"password": "still-there-afterwards"}
    assert tenant.record(key_id)["state"] == "Active"


def test_a_dry_run_of_a_delete_records_nothing(tenant: Tenant) -> None:
    tenant.kubectl.run("delete", "rootkey", tenant.name, "--dry-run=server")
    actions = [t["action"] for t in tenant.record(tenant.key_id)["transitions"]]
    assert "DeleteAdmitted" not in actions
    assert tenant.kubectl("get", "rootkey", tenant.name)["status"]["state"] == "Active"


def test_the_garbage_collector_may_not_delete(keyshred: Keyshred, tenant: Tenant) -> None:
    name = "system:serviceaccount:kube-system:generic-garbage-collector"
    done = tenant.kubectl.run(
        "delete", "rootkey", tenant.name, f"--as={name}", "--as-group=system:masters", "--wait=false", check=False
    )
    assert "never by garbage collection" in done.stderr
    assert not tenant.kubectl("get", "rootkey", tenant.name)["metadata"].get("deletionTimestamp")


def test_a_deleted_authorization_revokes_and_destroys_nothing(tenant: Tenant) -> None:
    tenant.create_secret("database", a="one")
    tenant.kubectl.run("delete", "keyauthorization", tenant.name)
    assert tenant.ask("database")[0] == 403
    namespace = ("namespace", tenant.name)
    tenant.kubectl.run(
        "wait",
        "--for=jsonpath={.metadata.labels.keyshred\\.dev/sealing}=retained",
        "/".join(namespace),
        "--timeout=180s",
    )
    reader = {"namespace": tenant.name, "name": "app", "allowUnbound": True}
    tenant.kubectl.apply(authorization(tenant.name, [tenant.name], subjects=[reader]))
    tenant.wait_ready()
    assert tenant.unseal("database") == {"a": "one"}


def _objects(token: SoftHsm) -> set[str]:
    """Labels of the secret keys on the token, as opensc sees them."""
    out = subprocess.run(
        [
            *("pkcs11-tool", "--module", str(MODULE), "--token-label", token.label),
            *("--login", "--pin", token.pin_file.read_text(), "--list-objects", "--type", "secrkey"),
        ],
        env=token.env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {line.split(":", 1)[1].strip() for line in out.splitlines() if line.strip().startswith("label:")}
