"""The CRDs, applied to the control plane of the session."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from docs.generate_api import load
from keyshred import names
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.cluster.paths import REPOSITORY
from tests.integration.crds.api import PLURALS, Api, Object
from tests.integration.crds.samples import sample


@pytest.fixture(scope="session")
def crds(kubectl: Kubectl) -> None:
    kubectl.run("apply", "--server-side", "-f", str(REPOSITORY / "crds"))
    kubectl.run("wait", "--for=condition=Established", "--timeout=180s", "-f", str(REPOSITORY / "crds"))


@pytest.fixture
def api(control_plane: ControlPlane, crds: None) -> Iterator[Api]:
    api = Api(control_plane)
    yield api
    api.remove_all()


@pytest.fixture
def later(control_plane: ControlPlane, kubectl: Kubectl) -> Iterator[Api]:
    """The same CRDs without what refuses fields "not yet", in a group of their own: what they will be one day."""
    group = f"later-{uuid.uuid4().hex[:8]}.{names.GROUP}"
    crds = [load(plural) for plural in PLURALS.values()]
    for crd in crds:
        spec = crd["spec"]
        crd["metadata"]["name"] = f"{spec['names']['plural']}.{group}"
        spec["group"] = group
        del spec["names"]["shortNames"], spec["names"]["categories"]
        drop_not_yet(spec["versions"][0]["schema"]["openAPIV3Schema"])
    kubectl.apply(*crds)
    named = [f"crd/{crd['metadata']['name']}" for crd in crds]
    kubectl.run("wait", "--for=condition=Established", "--timeout=180s", *named)
    yield Api(control_plane, group)
    # Not waited for: an API server that is just making their storage anew lets the deletion hang (seen on 1.36.3).
    kubectl.run("delete", "--wait=false", *named)


def drop_not_yet(schema: Any) -> None:
    """Removes the rules whose message begins so, at any depth."""
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        drop_not_yet(value)
    if isinstance(schema, dict) and "x-kubernetes-validations" in schema:
        rules = schema["x-kubernetes-validations"]
        schema["x-kubernetes-validations"] = [rule for rule in rules if not rule["message"].startswith("not yet")]


@pytest.fixture
def record(api: Api) -> Object:
    return api.create(sample("KeyRecord"))
