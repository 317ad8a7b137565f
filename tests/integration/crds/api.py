"""How these tests talk to the API server: as kubectl does, so that unknown fields are errors."""

import json
import uuid
from typing import Any, Final, cast

import pytest
from kubernetes import client, config

from keyshred import names
from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]

PLURALS: Final = {
    "RootKey": names.ROOT_KEYS,
    "KeyAuthorization": names.KEY_AUTHORIZATIONS,
    "KeyRecord": names.KEY_RECORDS,
    "DestructionApproval": names.DESTRUCTION_APPROVALS,
}


class Api:
    """Objects of our kinds in one API group."""

    def __init__(self, control_plane: ControlPlane, group: str = names.GROUP) -> None:
        self.group = group
        self._api = client.CustomObjectsApi(config.new_client_from_config(str(control_plane.kubeconfig)))
        self._made: list[tuple[str, str]] = []

    def dry_run(self, body: Object) -> Object:
        """What the API server would store. Errors: ApiException."""
        return self._create(body, dry_run="All")

    def create(self, body: Object) -> Object:
        """Creates; returns what is stored. Errors: ApiException."""
        made = self._create(body)
        self._made.append((PLURALS[body["kind"]], made["metadata"]["name"]))
        return made

    def replace(self, body: Object, *, status: bool = False) -> Object:
        """Replaces all but the status, or the status alone; returns what is stored. Errors: ApiException."""
        replace = self._api.replace_cluster_custom_object_status if status else self._api.replace_cluster_custom_object
        place = (self.group, names.VERSION, PLURALS[body["kind"]], body["metadata"]["name"])
        return cast(Object, replace(*place, body, field_validation="Strict"))

    def remove_all(self) -> None:
        """Nothing is left for the controllers that other tests start on the same control plane."""
        for plural, name in self._made:
            self._api.delete_cluster_custom_object(self.group, names.VERSION, plural, name)

    def _create(self, body: Object, dry_run: str | None = None) -> Object:
        body = {"apiVersion": f"{self.group}/{names.VERSION}"} | body
        place = (self.group, names.VERSION, PLURALS[body["kind"]])
        create = self._api.create_cluster_custom_object
        return cast(Object, create(*place, body, dry_run=dry_run, field_validation="Strict"))


def manifest(kind: str, spec: Object | None, name: str = "") -> Object:
    """An object to be created, by default under a name of its own; without a spec where that is None."""
    made: Object = {"kind": kind, "metadata": {"name": name or f"t-{uuid.uuid4().hex[:8]}"}}
    return made if spec is None else made | {"spec": spec}


def message_of(refused: pytest.ExceptionInfo[client.ApiException]) -> str:
    """The API server's words."""
    return str(json.loads(refused.value.body or "{}")["message"])
