"""Who may do what to keyshred's own resources: decided where the user's name cannot be forged."""

import json
from typing import Any, Final

import pytest

from docs.generate_api import load
from tests.cluster.kubectl import Kubectl
from tests.integration.policies.asking import AS_CONTROLLER, ROOT_KEY, Json, Site, answer, grant, patched, unique, until
from tests.integration.system.tenant import root_key

GROUP: Final = "keyshred.dev"
AS_WEBHOOK: Final = ("--as=system:serviceaccount:keyshred:keyshred-webhook", "--as-group=system:masters")


def user(site: Site, verbs: list[str], resources: list[str], **root_keys: list[str]) -> Kubectl:
    """Somebody with these rights, and verbs of their own on some RootKeys."""
    name = unique()
    rules = [{"apiGroups": [GROUP], "resources": resources, "verbs": verbs}]
    for verb, keys in root_keys.items():
        rules.append({"apiGroups": [GROUP], "resources": ["rootkeys"], "resourceNames": keys, "verbs": [verb]})
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    subject = {"kind": "User", "name": name, "apiGroup": rbac}
    binding = role | {
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
        "subjects": [subject],
    }
    del binding["rules"]
    site.kubectl.create(role, binding)
    made = site.user(name)
    until(lambda: made.run("auth", "can-i", verbs[0], f"{resources[0]}.{GROUP}", check=False).returncode == 0)
    return made


def granting(site: Site, **root_keys: list[str]) -> Kubectl:
    return user(site, ["get", "create", "patch"], ["keyauthorizations"], **root_keys)


NOWHERE: Final[Json] = {"namespaces": {"names": ["nowhere"]}}


def test_who_creates_a_key_authorization_may_use_its_key(site: Site) -> None:
    made = grant(unique(), NOWHERE)
    said = answer(granting(site, use=["other"]), "create", made)
    assert f"KeyAuthorization {made['metadata']['name']}" in said and f"may not use RootKey {ROOT_KEY}" in said
    assert "verb use on rootkeys" in said
    assert not answer(granting(site, use=[ROOT_KEY]), "create", made)


def test_who_changes_one_may_use_its_key(site: Site) -> None:
    name = unique()
    site.kubectl.create(grant(name, NOWHERE))
    wider = {"spec": {"namespaces": {"names": ["nowhere", "elsewhere"]}}}
    without, holder = granting(site), granting(site, use=[ROOT_KEY])
    assert f"may not use RootKey {ROOT_KEY}" in patched(without, wider, "keyauthorization", name)
    assert not patched(holder, wider, "keyauthorization", name)
    assert not patched(without, {"metadata": {"labels": {"a": "b"}}}, "keyauthorization", name)


def test_release_needs_a_right_of_its_own(site: Site) -> None:
    name = unique()
    site.kubectl.create(grant(name, NOWHERE))
    user_only, releaser = granting(site, use=[ROOT_KEY]), granting(site, use=[ROOT_KEY], release=[ROOT_KEY])
    for who, allowed in ((user_only, False), (releaser, True)):
        new = answer(who, "create", grant(unique(), NOWHERE | {"mode": "Release"}))
        changed = patched(who, {"spec": {"mode": "Release"}}, "keyauthorization", name)
        for said in (new, changed):
            assert (not said) if allowed else (f"may not release what is sealed under RootKey {ROOT_KEY}" in said)


def test_the_controllers_stamp_needs_neither(site: Site) -> None:
    name = unique()
    made = grant(name, NOWHERE)
    made["spec"]["rootKeyRef"] = {"name": f"later-{name}"}
    site.kubectl.create(made)
    stamp = {"spec": {"rootKeyRef": {"keyID": "aaaaaaaa-0000-4000-8000-000000000001"}}}
    assert not patched(site.controller, stamp, "keyauthorization", name)
    assert f"may not use RootKey later-{name}" in patched(granting(site), stamp, "keyauthorization", name)


def test_approvals_are_given_in_ones_own_name(site: Site) -> None:
    """The CRD refuses all of them still; without that one rule it is the policy's turn."""
    crd = load("destructionapprovals")
    rules = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"]
    rules[:] = [rule for rule in rules if "not yet" not in rule["message"]]
    site.kubectl.apply(crd)
    key_id = "aaaaaaaa-0000-4000-8000-000000000001"
    spec = {"rootKeyRef": {"name": ROOT_KEY, "keyID": key_id}, "action": "Destroy", "approver": "test-admin"}
    approval = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "DestructionApproval", "metadata": {"name": "a"}}
    until(lambda: not answer(site.kubectl, "create", approval | {"spec": spec}))
    said = answer(site.kubectl, "create", approval | {"spec": spec | {"approver": "somebody"}})
    assert "DestructionApproval a: spec.approver is somebody and you are test-admin" in said
    site.keyshred.install_crds()


def test_the_finalizer_comes_off_by_the_controller_alone(site: Site) -> None:
    off: Json = {"metadata": {"finalizers": None}}
    said = patched(site.kubectl, off, "rootkey", ROOT_KEY)
    # Before a deletion the webhook puts it back; it is gone on one that waits for its destruction.
    assert not said and "keyshred.dev/destruction" in _finalizers(site, ROOT_KEY)
    name = unique()
    site.kubectl.apply(root_key(name))
    site.kubectl.run("delete", "rootkey", name, "--wait=false")
    said = patched(site.kubectl, off, "rootkey", name)
    assert f"RootKey {name}: the controller alone takes the finalizer" in said and "condition Ready" in said
    assert not patched(site.kubectl, {"metadata": {"labels": {"a": "b"}}}, "rootkey", name)
    assert not patched(site.controller, off, "rootkey", name)


def _finalizers(site: Site, name: str) -> list[str]:
    found: list[str] = site.kubectl("get", "rootkey", name)["metadata"]["finalizers"]
    return found


def test_records_are_written_by_keyshred_alone(site: Site) -> None:
    key_id = site.kubectl("get", "rootkey", ROOT_KEY)["spec"]["keyID"]
    record = site.kubectl("get", "keyrecord", key_id)
    other = record | {"metadata": {"name": "aaaaaaaa-0000-4000-8000-000000000001"}}
    other["spec"] = {"keyID": other["metadata"]["name"], "rootKeyName": "x"}
    assert "is written by keyshred alone" in answer(site.kubectl, "create", other)
    for accounts in (AS_CONTROLLER, AS_WEBHOOK):
        assert not answer(site.kubectl, "create", other, more=accounts)
    assert "is written by keyshred alone" in patched(site.kubectl, {"metadata": {"labels": {"a": "b"}}}, "kr", key_id)


@pytest.mark.parametrize("kind", ["keyrecord", "rootkey", "keyauthorization"])
def test_statuses_are_written_by_keyshred_alone(site: Site, kind: str) -> None:
    name = ROOT_KEY
    if kind == "keyrecord":
        name = site.kubectl("get", "rootkey", ROOT_KEY)["spec"]["keyID"]
    if kind == "keyauthorization":
        name = unique()
        site.kubectl.create(grant(name, NOWHERE))
    state: dict[str, Any] = {"secrets": 7} if kind == "keyauthorization" else {"state": "Suspended"}
    what = (kind, name, "--subresource=status")
    said = patched(site.kubectl, {"status": state}, *what)
    assert f"{name}: its status is written by keyshred alone" in said
    assert "written by keyshred alone" not in patched(site.kubectl, {"status": state}, *what, *AS_CONTROLLER)


def test_a_record_is_kept_until_its_key_is_destroyed(site: Site) -> None:
    key_id = site.kubectl("get", "rootkey", ROOT_KEY)["spec"]["keyID"]
    for more in ((), AS_CONTROLLER):
        done = site.kubectl.run("delete", "keyrecord", key_id, "--dry-run=server", *more, check=False)
        assert f"KeyRecord {key_id} is kept while its key is not Destroyed" in done.stderr
    done = site.kubectl.run("delete", "keyrecords", "--all", "--dry-run=server", check=False)
    assert "is kept while" in done.stderr


CRDS: Final = ("rootkeys", "keyauthorizations", "keyrecords", "destructionapprovals")


@pytest.mark.parametrize("plural", CRDS)
def test_crds_are_kept(site: Site, plural: str) -> None:
    done = site.kubectl.run("delete", "crd", f"{plural}.{GROUP}", "--dry-run=server", check=False)
    assert f"CustomResourceDefinition {plural}.{GROUP}" in done.stderr
    assert "kubectl delete validatingadmissionpolicybinding crds.keyshred.dev" in done.stderr
    selector = "apiextensions.k8s.io/v1/customresourcedefinitions"
    assert "would go" in site.kubectl.run("delete", "--raw", f"/apis/{selector}?dryRun=All", check=False).stderr


def test_crds_lose_nothing(site: Site) -> None:
    def without(change: str) -> str:
        crd = load("rootkeys")
        version = crd["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]["properties"]
        match change:
            case "served":
                version["served"] = False
            case "status":
                del version["subresources"]
            case "field":
                del schema["spec"]["properties"]["keyID"]
                schema["spec"].pop("x-kubernetes-validations")
            case "status field":
                del schema["status"]["properties"]["versions"]
        return answer(site.kubectl, "replace", crd)

    assert not without("nothing")
    for change in ("served", "status", "field", "status field"):
        assert "takes away a version or a field" in without(change), change


def test_other_crds_are_free(site: Site) -> None:
    crd = json.loads(json.dumps(load("destructionapprovals")).replace("keyshred.dev", "other.example"))
    site.kubectl.create(crd)
    site.kubectl.run("delete", "crd", crd["metadata"]["name"], "--timeout=180s")
