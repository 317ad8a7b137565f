"""What each ServiceAccount of the chart may do, as the API server says it, held against docs/rbac.md."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.cluster import accounts, chart
from tests.cluster.chart import NAMESPACE
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.cluster.paths import REPOSITORY

ACCOUNTS: Final = ("keyshred-webhook", "keyshred-controller", "keyshred-node", "keyshred-test")
PLACES: Final = {NAMESPACE: "its own", "default": "`default`", "elsewhere": "all"}
PAGE: Final = REPOSITORY / "docs" / "rbac.md"
Rule = tuple[str, str, str, str]
"""Group, resource, names, verbs."""


@pytest.fixture(scope="module")
def rules(cluster: ControlPlane) -> Iterator[dict[tuple[str, str], set[Rule]]]:
    """By account and place, without what everybody has."""
    kubectl = cluster.kubectl
    kubectl.run("create", "namespace", "elsewhere")
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    rights = [o for o in chart.render({}) if o["kind"] in kinds]
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(_list(rights)))
    accounts.create(kubectl, "elsewhere", "nobody")
    nobody = {place: _rules(_as(cluster, "elsewhere", "nobody"), place) for place in PLACES}
    yield {
        (account, place): _rules(_as(cluster, NAMESPACE, account), place) - nobody[place]
        for account in ACCOUNTS
        for place in PLACES
    }
    # Other tests need that account: a pod made as a dry run wants its own to be there.
    ours = [o for o in rights if (o["kind"], o["metadata"]["name"]) != ("ServiceAccount", "keyshred-test")]
    kubectl.run("delete", "-f", "-", input=json.dumps(_list(ours)))


def _list(items: list[Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _as(cluster: ControlPlane, namespace: str, account: str) -> Kubectl:
    return Kubectl(cluster.service_account_kubeconfig(namespace, account))


def _rules(kubectl: Kubectl, namespace: str) -> set[Rule]:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    # Not through the cache of discovery, which these may not have.
    status = kubectl("create", "--validate=false", "-f", "-", input=json.dumps(review))["status"]
    assert not status["incomplete"] and not status.get("evaluationError")
    return {
        (
            group or "core",
            resource,
            ", ".join(sorted(rule.get("resourceNames") or ())),
            ", ".join(sorted(rule["verbs"])),
        )
        for rule in status["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def _table(rules: dict[tuple[str, str], set[Rule]], account: str) -> str:
    everywhere = rules[account, "elsewhere"]
    lines = ["| namespaces | group | resource | names | verbs |", "|---|---|---|---|---|"]
    for place, shown in reversed(PLACES.items()):
        for group, resource, names, verbs in sorted(rules[account, place] - (everywhere if shown != "all" else set())):
            lines.append(f"| {shown} | {group} | {resource} | {names} | {verbs} |")
    return "\n".join(lines)


def test_rights_are_those_of_the_document(rules: dict[tuple[str, str], set[Rule]]) -> None:
    """Mend by hand, after a thought: each row is a right that somebody who takes a pod over has."""
    text = PAGE.read_text()
    for account in ACCOUNTS:
        assert f"## `{account}`\n" in text
        section = text.partition(f"## `{account}`\n")[2].partition("\n## ")[0]
        shown = section[section.index("| namespaces") :].split("\n\n")[0].strip()
        assert shown == _table(rules, account)


def test_nobody_reads_secrets_outside_keyshreds_own_namespace(rules: dict[tuple[str, str], set[Rule]]) -> None:
    for (account, place), found in rules.items():
        of_secrets = [r for r in found if r[:2] == ("core", "secrets")]
        if place != NAMESPACE:
            assert of_secrets == [], account
        for _, _, names, verbs in of_secrets:
            assert names or verbs == "create", "without a name it may only make one"
        assert not [r for r in found if "*" in r[:2] or r[3] == "*"]
        assert not [r for r in found if "escalate" in r[3] or "impersonate" in r[3]]
