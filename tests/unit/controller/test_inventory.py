"""What the controller knows, as numbers."""

from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from keyshred.controller.certificates import Expiry
from keyshred.controller.inventory import Inventory
from keyshred.names import KEY_AUTHORIZATIONS, ROOT_KEYS
from keyshred.observe.metrics import COLLECTED, Collected
from keyshred.policy.coverage import Named, Report

KEY_ID = "6f1b2c3d-0000-4000-8000-000000000001"


def _samples(inventory: Inventory) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(Collected(inventory.values))
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def _ready(status: str, reason: str) -> dict[str, str]:
    return {"type": "Ready", "status": status, "reason": reason}


def _record(state: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": KEY_ID},
        "spec": {"rootKeyName": "a"},
        "status": {"state": state, "versions": [{"version": 1, "wrapsReserved": 1 << 30}]} | status,
    }


def test_nothing_is_known_at_first() -> None:
    samples = _samples(Inventory())
    assert samples['keyshred_keys{state="Active"}'] == 0
    assert not [name for name in samples if name.startswith("keyshred_root_key")]
    assert "keyshred_certificate_trusted" not in samples


def test_root_keys_and_authorizations() -> None:
    inventory = Inventory()
    present = {"type": "KeyMaterialPresent", "status": "True", "reason": "KeyPresent"}
    status = {"conditions": [_ready("True", "KeyActive"), present], "dependents": {"secrets": 7, "namespaces": 1}}
    inventory.saw(ROOT_KEYS, "a", {"expirationTime": "2027-01-01T00:00:00Z"}, status)
    inventory.saw(KEY_AUTHORIZATIONS, "k", {}, {"conditions": [_ready("False", "Conflict")]})
    samples = _samples(inventory)
    assert samples['keyshred_root_key_ready{reason="KeyActive",root_key="a"}'] == 1
    assert samples['keyshred_root_key_material_present{root_key="a"}'] == 1
    assert samples['keyshred_root_key_dependents{root_key="a"}'] == 7
    expiry = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert samples['keyshred_root_key_expiry_timestamp_seconds{root_key="a"}'] == expiry
    assert samples['keyshred_key_authorization_ready{key_authorization="k",reason="Conflict"}'] == 0
    # Another reason is another series, and the old one is gone.
    inventory.saw(ROOT_KEYS, "a", {}, {"conditions": [_ready("False", "HsmUnavailable")]})
    assert 'keyshred_root_key_ready{reason="KeyActive",root_key="a"}' not in _samples(inventory)
    inventory.left(ROOT_KEYS, [])
    assert not [name for name in _samples(inventory) if name.startswith("keyshred_root_key")]


def test_records() -> None:
    inventory = Inventory()
    inventory.records([_record("Active")])
    samples = _samples(inventory)
    assert samples['keyshred_keys{state="Active"}'] == 1 and samples["keyshred_destructions_stalled"] == 0
    assert samples['keyshred_key_version_wraps_ratio{key_version="1",root_key="a"}'] == 0.5
    stalled = [{"type": "Stalled", "status": "True", "reason": "KeyClaimed"}]
    inventory.record(_record("PendingDestruction", conditions=stalled))
    assert _samples(inventory)["keyshred_destructions_stalled"] == 1
    inventory.record(_record("Destroyed"))
    samples = _samples(inventory)
    assert samples['keyshred_keys{state="Destroyed"}'] == 1 and samples['keyshred_keys{state="Active"}'] == 0
    assert not [name for name in samples if "wraps" in name]


def test_a_secret_that_two_authorizations_cover_counts_once() -> None:
    inventory = Inventory()
    one = Report(unsealed=["ns/a", "ns/b"], held=[Named("ns", "c", "a pod")])
    two = Report(unsealed=["ns/a"], unsealable=[Named("other", "d", "immutable")])
    inventory.surveyed([one, two], pending=2)
    samples = _samples(inventory)
    assert samples['keyshred_unsealed_secrets{namespace="ns",why="pending"}'] == 2
    assert samples['keyshred_unsealed_secrets{namespace="ns",why="held"}'] == 1
    assert samples['keyshred_unsealed_secrets{namespace="other",why="unsealable"}'] == 1
    assert samples["keyshred_sweep_pending_secrets"] == 2


def test_certificates() -> None:
    inventory = Inventory()
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    inventory.expiry = lambda: Expiry(moment, moment, True)
    samples = _samples(inventory)
    assert samples["keyshred_ca_expiry_timestamp_seconds"] == moment.timestamp()
    assert samples["keyshred_certificate_trusted"] == 1


def test_all_that_is_declared_is_collected() -> None:
    assert Inventory().values().keys() == COLLECTED.keys()
