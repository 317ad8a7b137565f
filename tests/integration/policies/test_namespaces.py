"""The sealing label: there from a namespace's first moment, and nobody's but keyshred's."""

import json
from collections.abc import Iterator

import pytest

from tests.integration.policies.asking import (
    HELD,
    LABEL,
    Json,
    Site,
    answer,
    grant,
    namespace,
    patched,
    secret,
    unique,
    until,
)

TEAM = "keyshred-test/team"
OWN = {LABEL: "enabled"}


@pytest.fixture(scope="module")
def team(site: Site) -> Iterator[str]:
    """A team whose namespaces are all to be sealed, by their label."""
    name = unique()
    site.kubectl.create(
        grant(name, {"namespaces": {"names": [f"{name}-named"], "selector": {"matchLabels": {TEAM: name}}}})
    )
    yield name
    site.kubectl.run("delete", "keyauthorization", name, "--ignore-not-found")


def created(site: Site, made: Json) -> dict[str, dict[str, str]]:
    """Labels and annotations that a new namespace would have."""
    out = site.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(made))["metadata"]
    return {"labels": out["labels"], "annotations": out.get("annotations", {})}


def test_there_is_no_unlabelled_moment(site: Site, team: str) -> None:
    """Namespace and Secret right after one another, again and again; the controller is stopped."""
    for _ in range(10):
        name = unique()
        made = {"apiVersion": "v1", "kind": "List", "items": [namespace(name, {TEAM: team}), secret(name)]}
        site.kubectl.run("create", "-f", "-", input=json.dumps(made))
        stored = site.keyshred.cluster.etcd_raw(f"/registry/secrets/{name}/app")
        assert len(stored) == 1 and b"KSH1" in b"".join(stored.values())
        assert b"correct-horse" not in b"".join(stored.values())


def test_a_namespace_whose_name_is_generated_has_its_label_too(site: Site, team: str) -> None:
    made = namespace("", {TEAM: team})
    made["metadata"] = {"generateName": "keyshred-test-", "labels": made["metadata"]["labels"]}
    name = json.loads(site.kubectl.run("create", "-f", "-", "-o", "json", input=json.dumps(made)).stdout)["metadata"]
    assert name["labels"][LABEL] == "enabled"
    free = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "keyshred-test-"}}
    assert LABEL not in created(site, free)["labels"]


def test_new_namespaces_get_the_label_that_is_theirs(site: Site, team: str) -> None:
    false = OWN | {"a": "b"}
    assert created(site, namespace(unique(), {TEAM: team}))["labels"][LABEL] == "enabled"
    assert created(site, namespace(f"{team}-named"))["labels"][LABEL] == "enabled"
    assert created(site, namespace(unique(), {TEAM: team, LABEL: "retained"}))["labels"][LABEL] == "enabled"
    free = created(site, namespace(unique(), false, {HELD: "*", "c": "d"}))
    assert free["annotations"] == {"c": "d"} and LABEL not in free["labels"] and free["labels"]["a"] == "b"
    assert LABEL not in created(site, namespace(unique(), {TEAM: "other"}))["labels"]


@pytest.mark.parametrize("own", [{"mode": "Preview"}, {"expirationTime": "2020-01-01T00:00:00Z"}])
def test_one_that_seals_nothing_gives_no_label(site: Site, own: Json) -> None:
    name = unique()
    site.kubectl.create(grant(name, {"namespaces": {"names": [name]}} | own))
    assert LABEL not in created(site, namespace(name))["labels"]


def test_what_is_ours_is_put_back_with_a_warning(site: Site) -> None:
    """A manifest from git knows nothing of the label: replacing the namespace by it must do."""
    name = site.namespace("enabled", "a,b")
    for verb, change in (("replace", namespace(name, {"x": "y"})), ("apply", namespace(name, {LABEL: "retained"}))):
        more = ["--server-side", "--force-conflicts"] if verb == "apply" else []
        done = site.kubectl.run(verb, *more, "-f", "-", input=json.dumps(change))
        assert "Warning: keyshred: the label" in done.stderr
    meta = site.kubectl("get", "namespace", name)["metadata"]
    assert meta["labels"][LABEL] == "enabled" and meta["annotations"][HELD] == "a,b" and meta["labels"]["x"] == "y"


@pytest.mark.usefixtures("without_webhooks")
class TestWithoutWebhooks:
    """What the API server still holds by itself."""

    def test_a_selected_namespace_waits_for_its_label(self, site: Site, team: str) -> None:
        for made in (namespace(unique(), {TEAM: team}), namespace(f"{team}-named")):
            said = answer(site.kubectl, "create", made)
            assert f"namespace {made['metadata']['name']} is selected by KeyAuthorization {team}" in said
            assert "try again" in said
        assert "is selected by" in answer(site.kubectl, "create", namespace(unique(), {TEAM: team, LABEL: "retained"}))

    def test_all_others_are_free(self, site: Site, team: str) -> None:
        assert not answer(site.kubectl, "create", namespace(unique(), {TEAM: "other"}))

    def test_nobody_holds_secrets_in_a_new_namespace(self, site: Site) -> None:
        said = answer(site.kubectl, "create", namespace(unique(), annotations={HELD: "*"}))
        assert "the annotation keyshred.dev/held is keyshred's own" in said

    @pytest.mark.parametrize("through", ["", "status", "finalize"])
    def test_nobody_else_changes_what_is_ours(self, site: Site, through: str) -> None:
        name = site.namespace("enabled", "a")
        for patch, what in (
            ({"labels": {LABEL: None}}, "label keyshred.dev/sealing"),
            ({"labels": {LABEL: "retained"}}, "label keyshred.dev/sealing"),
            ({"annotations": {HELD: "*"}}, "annotation keyshred.dev/held"),
            ({"annotations": {HELD: None}}, "annotation keyshred.dev/held"),
        ):
            assert f"namespace {name}: the {what} is keyshred's own" in self._change(site, name, patch, through)
        assert not self._change(site, name, {"labels": {"a": "b"}, "annotations": {"c": "d"}}, through)

    def _change(self, site: Site, name: str, patch: Json, through: str) -> str:
        if through != "finalize":
            more = (f"--subresource={through}",) if through else ()
            return patched(site.kubectl, {"metadata": patch}, "namespace", name, *more)
        whole = site.kubectl("get", "namespace", name)
        for kind, values in patch.items():
            merged = whole["metadata"].get(kind, {}) | values
            whole["metadata"][kind] = {k: v for k, v in merged.items() if v is not None}
        path = f"/api/v1/namespaces/{name}/finalize?dryRun=All"
        done = site.kubectl.run("replace", "--raw", path, "-f", "-", input=json.dumps(whole), check=False)
        return done.stderr if done.returncode else ""

    def test_the_controller_does(self, site: Site) -> None:
        name = site.namespace("enabled", "a")
        site.set_own(name, "retained", None)
        meta = site.kubectl("get", "namespace", name)["metadata"]
        assert meta["labels"][LABEL] == "retained" and HELD not in meta.get("annotations", {})


def test_an_expired_one_selects_nothing(site: Site) -> None:
    gone, last = unique(), unique()
    site.take_webhooks_away()
    site.kubectl.create(
        grant(gone, {"namespaces": {"names": [gone]}, "expirationTime": "2020-01-01T00:00:00Z"}),
        grant(last, {"namespaces": {"names": [last]}}),
    )
    until(lambda: answer(site.kubectl, "create", namespace(last)))
    assert not answer(site.kubectl, "create", namespace(gone))
    site.bring_webhooks_back()
