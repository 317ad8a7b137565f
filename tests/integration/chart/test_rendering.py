"""The chart, rendered by Helm and judged by a real API server."""

import copy
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import keyshred
from tests.cluster import chart, image
from tests.cluster.chart import NAMESPACE
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import as_list
from tests.cluster.paths import REPOSITORY

Json = dict[str, Any]
EVERYTHING: Final[Json] = yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text())
PRODUCTION: Final[Json] = {
    "mode": "production",
    "hsm": {"tokenURI": "pkcs11:token=t", "modulePath": "/m.so", "pins": {"use": {"secretName": "pin"}}},
}
ON_A_VOLUME: Final[Json] = {"evaluation": {"storage": "pvc"}}
ON_THE_NODE: Final[Json] = {"evaluation": {"storage": "node"}}
WITH_AN_ISSUER: Final[Json] = {
    "certificates": {"issuer": "cert-manager", "certManager": {"issuerRef": {"name": "corp", "kind": "ClusterIssuer"}}}
}


def _leaves(values: Mapping[str, Any], path: str = "") -> set[str]:
    return set[str]().union(
        *(
            _leaves(value, f"{path}{name}.") if isinstance(value, dict) and _is_ours(value) else {path + name}
            for name, value in values.items()
        )
    )


def _is_ours(value: Json) -> bool:
    """Whether its names are the chart's, and not those of labels or of Kubernetes."""
    return bool(value) and all(name.isalpha() and name != "requests" for name in value)


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def test_everything_is_everything() -> None:
    """Else the tests below would not see an option that somebody adds."""
    defaults = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    given = _leaves(EVERYTHING)
    assert not [leaf for leaf in _leaves(defaults) if not any(g == leaf or g.startswith(f"{leaf}.") for g in given)]


@pytest.mark.parametrize(
    "values",
    [{}, ON_A_VOLUME, PRODUCTION, WITH_AN_ISSUER, EVERYTHING, EVERYTHING | {"mode": "evaluation", "hsm": {}}],
    ids=["no values", "on a volume", "production", "cert-manager", "everything", "everything in evaluation"],
)
def test_the_api_server_takes_all_of_it(cluster: ControlPlane, values: Json) -> None:
    objects = chart.render(values)
    for made in (o for o in objects if o["kind"] == "Namespace"):
        # A dry run does not make it, and what is in it is asked about, too.
        cluster.kubectl.apply(made)
    done = cluster.kubectl.run(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"),
        input=as_list(objects),
    )
    assert done.stdout.count("serverside-applied") == len(objects)
    assert "Warning" not in done.stderr


def test_no_option_is_without_effect() -> None:
    """Each, put back to its default alone, changes what is rendered in one of the two modes."""
    defaults = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    own = {"issuer": "self", "lifetime": 60, "caLifetime": 600, "extraHosts": ["a"]}
    evaluation = EVERYTHING | {"mode": "evaluation", "hsm": {}, "certificates": own}
    on_a_node = evaluation | {"evaluation": EVERYTHING["evaluation"] | {"storage": "node"}}
    bases = [(values, chart.template(values)) for values in (EVERYTHING, evaluation, on_a_node)]
    idle = []
    for leaf in _leaves(defaults):
        if not any(_differs(values, rendered, leaf, _at(defaults, leaf)) for values, rendered in bases):
            idle.append(leaf)
    # Those that EVERYTHING gives as they are by default, each of which has its own test.
    assert sorted(idle) == [
        "certificates.certManager.issuerRef",
        "controller.nodeSelector",
        "crds.enabled",
        "hsm.pins.manage.key",
        "hsm.pins.manage.secretName",
        "hsm.pins.use.file",
        "image.digest",
        "networkPolicy.enabled",
        "node.enabled",
        "rbac.aggregateToView",
        "rbac.peopleRoles",
        "uninstallNotice.enabled",
        "webhook.podDisruptionBudget.enabled",
    ]


def _differs(values: Json, rendered: str, leaf: str, default: Any) -> bool:
    other = copy.deepcopy(values)
    *path, last = leaf.split(".")
    try:
        (_at(other, ".".join(path)) if path else other)[last] = default
    except KeyError:
        return False
    try:
        return chart.template(other) != rendered
    except ClusterError:
        return True  # it is asked for


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"crds": {"enabled": False}}, "CustomResourceDefinition"),
        ({"node": {"enabled": False}}, "DaemonSet"),
        ({"node": {"enabled": False}}, "CSIDriver"),
        ({"networkPolicy": {"enabled": False}}, "NetworkPolicy"),
        ({"uninstallNotice": {"enabled": False}}, "Job"),
        ({"webhook": {"podDisruptionBudget": {"enabled": False}}}, "PodDisruptionBudget"),
    ],
)
def test_what_can_be_left_out(values: Json, kind: str) -> None:
    assert kind in {o["kind"] for o in chart.render({})}
    assert kind not in {o["kind"] for o in chart.render(values)}


def test_pins_of_use_and_manage() -> None:
    def pins(values: Json) -> dict[str, tuple[str, Any]]:
        found = {}
        for deployment in (o for o in chart.render(values) if o["kind"] == "Deployment"):
            spec = deployment["spec"]["template"]["spec"]
            uri = next(e["value"] for e in spec["containers"][0]["env"] if e["name"] == "KEYSHRED_TOKEN_URI")
            volume: Json = next((v["secret"] for v in spec["volumes"] if v["name"] == "pin"), {})
            source = uri.partition("pin-source=file:")[2]
            found[deployment["metadata"]["name"]] = (source, (volume.get("secretName"), *_keys(volume)))
        return found

    one = ("/etc/keyshred/pin/pin", ("pin", "pin"))
    assert pins(PRODUCTION) == {"keyshred-webhook": one, "keyshred-controller": one}
    apart = {"use": {"file": "/u"}, "manage": {"secretName": "m", "key": "so"}}
    assert pins(PRODUCTION | {"hsm": PRODUCTION["hsm"] | {"pins": apart}}) == {
        "keyshred-webhook": ("/u", (None,)),
        "keyshred-controller": ("/etc/keyshred/pin/pin", ("m", "so")),
    }


def _keys(volume: Json) -> list[str]:
    return [item["key"] for item in volume.get("items", ())]


def test_a_digest_beats_the_tag() -> None:
    digest = "sha256:" + "a" * 64
    image = f"ghcr.io/keyshred/keyshred@{digest}"
    assert f"image: {image}\n" in chart.template({"image": {"digest": digest, "tag": "1"}})


def test_roles_for_people() -> None:
    def roles(values: Json) -> dict[str, Json]:
        return {o["metadata"]["name"]: o for o in chart.render(values) if o["kind"] == "ClusterRole"}

    people = {f"keyshred.dev:{role}" for role in ("key-admin", "destroyer", "approver", "viewer")}
    assert people <= roles({}).keys() and not people & roles({"rbac": {"peopleRoles": False}}).keys()
    label = "rbac.authorization.k8s.io/aggregate-to-view"
    assert roles({})["keyshred.dev:viewer"]["metadata"]["labels"][label] == "true"
    assert label not in roles({"rbac": {"aggregateToView": False}})["keyshred.dev:viewer"]["metadata"]["labels"]
    for name in people:
        rules = roles({})[name]["rules"]
        assert {group for rule in rules for group in rule["apiGroups"]} == {"keyshred.dev"}, "nothing of others"
        deletes = any({"delete", "deletecollection"} & set(r["verbs"]) and "rootkeys" in r["resources"] for r in rules)
        assert deletes is (name == "keyshred.dev:destroyer")


def test_the_chart_installs_the_image_of_its_own_version() -> None:
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == keyshred.__version__
    assert f"image: {image.NAME}\n" in chart.template({})


def test_replicas_are_spread_as_far_as_that_goes() -> None:
    for values in ({}, PRODUCTION):
        deployments = {o["metadata"]["name"]: o for o in chart.render(values) if o["kind"] == "Deployment"}
        spread = deployments["keyshred-webhook"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [s["topologyKey"] for s in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        assert {s["whenUnsatisfiable"] for s in spread} == {"ScheduleAnyway"}


def test_a_second_rendering_changes_nothing() -> None:
    """As Argo CD and Flux render it: without a cluster, again and again."""
    for values in ({}, EVERYTHING):
        assert chart.template(values) == chart.template(values)


def test_what_the_repository_has_rendered_is_the_chart() -> None:
    """Mend with `python -m tests.cluster.chart`."""
    assert chart.installed() == {file.name: file.read_text() for file in chart.INSTALL.iterdir()}


def test_the_chart_has_what_it_has_from_elsewhere() -> None:
    """Mend with `python charts/generate.py`."""
    generated = runpy.run_path(str(REPOSITORY / "charts" / "generate.py"))
    templates: dict[Path, str] = generated["crd_templates"]()
    assert {file: file.read_text() for file in (chart.CHART / "templates" / "crds").iterdir()} == templates
    assert (chart.CHART / "README.md").read_text() == generated["readme"]()


def test_crds_are_those_of_the_repository_and_are_kept() -> None:
    rendered = {o["metadata"]["name"]: o for o in chart.render({}) if o["kind"] == "CustomResourceDefinition"}
    originals = [yaml.safe_load(file.read_text()) for file in (REPOSITORY / "crds").glob("*.yaml")]
    assert {o["metadata"]["name"]: o["spec"] for o in originals} == {n: o["spec"] for n, o in rendered.items()}
    assert {o["metadata"]["annotations"]["helm.sh/resource-policy"] for o in rendered.values()} == {"keep"}
    assert not [o for o in chart.render({"crds": {"enabled": False}}) if o["kind"] == "CustomResourceDefinition"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mode": "productoin"}, "mode"),
        ({"webhok": {}}, "additional properties 'webhok' not allowed"),
        ({"webhook": {"replicas": 0}}, "webhook/replicas"),
        ({"destructionFloors": {"gracePeriod": "3 days"}}, "gracePeriod"),
        ({"mode": "production"}, "hsm.tokenURI and hsm.modulePath"),
        ({"mode": "production", "hsm": PRODUCTION["hsm"] | {"pins": {}}}, "hsm.pins.use.secretName"),
        ({"hsm": PRODUCTION["hsm"]}, "are for mode: production"),
        (
            {"mode": "production", "hsm": PRODUCTION["hsm"] | {"tokenURI": "pkcs11:token=t?pin-value=1"}},
            "without query attributes",
        ),
        (
            {"mode": "production", "hsm": PRODUCTION["hsm"] | {"pins": {"use": {"secretName": "a", "file": "/b"}}}},
            "secretName or file, not both",
        ),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: Json, says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        chart.template(values)


def test_a_namespace_of_the_system_is_refused() -> None:
    with pytest.raises(ClusterError, match="a namespace of its own"):
        chart.template({}, namespace="kube-system")


def test_another_namespace_is_kept_out_of_sealing_and_known_to_the_policies() -> None:
    text = chart.template({}, namespace="elsewhere")
    assert "system:serviceaccount:keyshred:" not in text
    assert text.count("system:serviceaccount:elsewhere:keyshred-controller") >= 5
    assert "kube-node-lease, elsewhere]" in text and "'kube-node-lease', 'elsewhere']" in text


def test_the_evaluation_token_keeps_its_pods_together() -> None:
    named = chart.render({"evaluation": {"storage": "node", "nodeName": "one", "hostPath": "/srv/k"}})
    for deployment in (o for o in named if o["kind"] == "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        required = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert [term["topologyKey"] for term in required] == ["kubernetes.io/hostname"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert required[0]["labelSelector"]["matchLabels"].items() <= labels.items()
        assert spec["nodeSelector"]["kubernetes.io/hostname"] == "one"
        assert {"path": "/srv/k", "type": "DirectoryOrCreate"} in [v.get("hostPath") for v in spec["volumes"]]
        assert not [v for v in spec["volumes"] if "emptyDir" in v and v["emptyDir"].get("medium") != "Memory"]
    for deployment in (o for o in chart.render(PRODUCTION) if o["kind"] == "Deployment"):
        assert "affinity" not in deployment["spec"]["template"]["spec"]


def test_webhooks_fail_closed_and_select_little() -> None:
    for configuration in (o for o in chart.render({}) if o["kind"].endswith("WebhookConfiguration")):
        for webhook in configuration["webhooks"]:
            assert "caBundle" not in webhook["clientConfig"]
            assert webhook["timeoutSeconds"] <= 10
            own = {group for rule in webhook["rules"] for group in rule["apiGroups"]} == {"keyshred.dev"}
            if webhook["name"] == "namespaces.keyshred.dev":
                # A policy behind it sees to what must not slip through; nobody else's namespaces may hang on it.
                assert webhook["failurePolicy"] == "Ignore"
                continue
            assert webhook["failurePolicy"] == "Fail"
            assert own or "namespaceSelector" in webhook


@pytest.mark.parametrize(
    ("node", "namespace"),
    [({}, NAMESPACE), ({"namespace": "keyshred-node"}, "keyshred-node"), ({"enabled": False}, NAMESPACE)],
)
def test_the_driver_reaches_the_webhook_whoever_else_may(node: Json, namespace: str) -> None:
    given = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    for allowed in ([], given):
        objects = chart.render({"networkPolicy": {"webhookFrom": allowed}, "node": node})
        policies = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
        to_port = next(i for i in policies["keyshred-webhook"]["ingress"] if i["ports"][0]["port"] == 8443)
        if not allowed:
            assert "from" not in to_port, "everybody"
            continue
        *others, driver = to_port["from"]
        assert others == given
        assert driver["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
        for daemon_set in (o for o in objects if o["kind"] == "DaemonSet"):
            assert daemon_set["metadata"]["namespace"] == namespace
            labels = daemon_set["spec"]["template"]["metadata"]["labels"]
            assert driver["podSelector"]["matchLabels"] == daemon_set["spec"]["selector"]["matchLabels"]
            assert driver["podSelector"]["matchLabels"].items() <= labels.items()
            # A selector of pods means nothing for those that have the host's address.
            assert "hostNetwork" not in daemon_set["spec"]["template"]["spec"]


def test_json_of_the_dashboard_is_whole() -> None:
    made = [o for o in chart.render(EVERYTHING) if o["metadata"]["name"] == "keyshred-dashboard"]
    assert json.loads(made[0]["data"]["keyshred.json"])
    assert made[0]["metadata"]["namespace"] == NAMESPACE
