"""A chart in the style of public ones, before and after its namespace is adopted: not a manifest of it changes."""

import json
import re
from pathlib import Path
from typing import Any, Final

from tests.cluster.chart import helm, values_file
from tests.cluster.node import Node, until
from tests.e2e.installed import Installed, condition
from tests.integration.system.tenant import authorization, root_key

CHART: Final = Path(__file__).parent / "shop"
PLACE: Final = "shop-of-a-tenant"
PASSWORD: Final = "pa55-of-the-shop"
_SUM: Final = re.compile(r"^[0-9a-f]{64}", re.MULTILINE)


class Shop:
    """The release, and what its containers have seen."""

    def __init__(self, node: Node) -> None:
        self.node, self.kubectl = node, node.kubectl

    def install(self, note: str) -> None:
        file = values_file(self.node.directory, {"password": PASSWORD, "note": note})
        flags = (f"--namespace={PLACE}", "--create-namespace", "--wait", "--timeout=180s", f"--values={file}")
        helm("upgrade", "--install", "shop", str(CHART), *flags, kubeconfig=self.node.kubeconfig)

    def restart(self) -> None:
        for workload in ("deployment/shop-web", "statefulset/shop-db"):
            self.kubectl.run("rollout", "restart", workload, f"--namespace={PLACE}")
            self.kubectl.run("rollout", "status", workload, f"--namespace={PLACE}", "--timeout=180s")

    def report(self, name: str) -> str:
        """What a run of the CronJob says."""
        self.kubectl.run("create", "job", name, "--from=cronjob/shop-report", f"--namespace={PLACE}")
        self.kubectl.run("wait", "--for=condition=Complete", f"job/{name}", f"--namespace={PLACE}", "--timeout=180s")
        return self.kubectl.run("logs", f"job/{name}", f"--namespace={PLACE}").stdout

    def seen(self) -> dict[str, set[tuple[str, ...]]]:
        """By part: sums of all that each of its containers has printed."""
        found: dict[str, set[tuple[str, ...]]] = {}
        for pod in self.pods():
            name, part = pod["metadata"]["name"], pod["metadata"]["labels"].get("part", "")
            if part:
                said = self.kubectl.run("logs", name, f"--container={part}", f"--namespace={PLACE}").stdout
                assert "CHANGED" not in said
                found.setdefault(part, set()).add(tuple(_SUM.findall(said)))
        return found

    def pods(self) -> list[dict[str, Any]]:
        found = self.kubectl("get", "pods", f"--namespace={PLACE}")["items"]
        return [p for p in found if "deletionTimestamp" not in p["metadata"] and p["status"]["phase"] == "Running"]

    def held(self) -> set[str]:
        """Secrets that the KeyAuthorization says are held."""
        status = self.kubectl("get", "keyauthorization", PLACE).get("status") or {}
        return {item["name"] for item in status.get("held") or ()}


def test_a_chart_runs_as_before_through_its_adoption(node: Node, installed: Installed) -> None:
    shop, kubectl = Shop(node), node.kubectl
    shop.install("before")
    before, report = shop.seen(), shop.report("before")
    assert {part: len(sums) for part, sums in before.items()} == {"web": 1, "db": 1}
    manifests = helm("get", "manifest", "shop", f"--namespace={PLACE}", kubeconfig=node.kubeconfig)

    kubectl.apply(root_key(PLACE), authorization(PLACE, [PLACE], mode="Preview"))
    until("Preview names what pods hold", lambda: shop.held() == {"shop-db", "shop-web"})
    assert "KSH1" not in json.dumps(kubectl("get", "secrets", f"--namespace={PLACE}"))

    kubectl.apply(authorization(PLACE, [PLACE]))
    until("what pods read is held", lambda: shop.held() == {"shop-db", "shop-web"})
    shop.restart()
    until("all is sealed", lambda: condition(kubectl("get", "ka", PLACE), "Ready")["status"] == "True")

    assert shop.seen() == before, "those that ran, and those that came in their place"
    for name in ("shop-db", "shop-web"):
        key = f"/registry/secrets/{PLACE}/{name}"
        stored = node.etcd_raw(key)[key]
        assert PASSWORD.encode() not in stored and b"KSH1" in stored
    shop.restart()
    assert shop.seen() == before and shop.report("after") == report

    shop.install("before")
    assert helm("get", "manifest", "shop", f"--namespace={PLACE}", kubeconfig=node.kubeconfig) == manifests
    shop.install("after")
    assert len(shop.seen()["web"]) == 1 and shop.seen()["db"] == before["db"]
    used = json.dumps(kubectl("get", "pods", f"--namespace={PLACE}"))
    assert PASSWORD not in used
    kubectl.run("delete", "keyauthorization", PLACE)
    kubectl.run("delete", "namespace", PLACE, "--timeout=120s")
