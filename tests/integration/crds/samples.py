"""Specs and statuses with every field filled in."""

import uuid
from typing import Final

from tests.integration.crds.api import Object, manifest

KEY_ID: Final = "0b0e4a5e-6f2c-4d0f-9a53-3c2f7d1e8b64"
OTHER_ID: Final = "7d9c1f2a-1b3c-4e5f-8a9b-0c1d2e3f4a5b"
EARLY: Final = "2027-01-01T00:00:00Z"
LATE: Final = "2028-01-01T00:00:00.123456Z"
REF: Final[Object] = {"name": "payments"}
STAMPED: Final[Object] = {"rootKeyRef": REF | {"keyID": KEY_ID}}
APPROVAL: Final[Object] = {"rootKeyRef": REF | {"keyID": KEY_ID}, "action": "Destroy", "approver": "test-admin"}


def sample(kind: str) -> Object:
    """A small object of that kind, to be created."""
    if kind == "KeyRecord":
        key_id = str(uuid.uuid4())
        return manifest(kind, {"keyID": key_id, "rootKeyName": "payments"}, name=key_id)
    return manifest(kind, {} if kind == "RootKey" else STAMPED)


def entries(count: int, **extra: str) -> list[Object]:
    return [
        {
            "seq": number,
            "time": f"2026-01-01T00:00:00.{number:06}Z",
            "action": "RotateStarted",
            "by": "keyshred",
            "prevHash": f"{number:064x}" if number else "",
            **extra,
        }
        for number in range(count)
    ]


TOKEN: Final[Object] = {"label": "keyshred", "serial": "1a2b", "manufacturer": "x", "model": "y", "firmware": "2.6"}
EVIDENCE: Final[Object] = {
    "keyID": KEY_ID,
    "rootKeyName": "payments",
    "clusterUID": OTHER_ID,
    "origin": "Generated",
    "outcome": "performed",
    "class": "software-logical",
    "versions": [{"version": 1, "checkValue": "0f" * 16, "mechanism": "AES_GCM"}],
    "requestedBy": "test-admin",
    "requestedAt": EARLY,
    "approvedBy": [],
    "token": TOKEN,
    "startedAt": EARLY,
    "destroyedAt": LATE,
    "objectsDestroyed": 1,
    "controls": {
        "before": {"passed": True, "time": EARLY, "canaryOpened": True, "tokenFound": True, "signingKeyFound": False},
        "after": {
            "passed": True,
            "time": LATE,
            "keyFound": False,
            "canaryOpensUnderAnyKey": False,
            "tokenFound": True,
            "signingKeyFound": False,
        },
    },
    "repeatSearch": {"time": LATE, "objectsFound": 0},
    "dependents": {"secrets": 3, "sealedAtCreate": 2, "adopted": 1, "earliestAdoption": EARLY, "observedAt": EARLY},
    "residual": {"podsWithEnvironment": 0, "volumesCleared": 0, "volumesUnreached": 0},
    "hsmBackup": {"retention": "unknown"},
    "signed": False,
    "dsse": "",
}
DESTROYED: Final[Object] = {"state": "Destroyed", "evidence": EVIDENCE, "transitions": entries(3)}
VERSION: Final[Object] = {
    "version": 1,
    "mechanism": "AES_GCM",
    "checkValue": "0f" * 16,
    "createdAt": EARLY,
    "canary": "QUJD" * 20,
    "destroyedAt": LATE,
    "wrapsReserved": 65536,
}
CONDITION: Final[Object] = {
    "type": "Ready",
    "status": "True",
    "observedGeneration": 1,
    "lastTransitionTime": EARLY,
    "reason": "KeyActive",
    "message": "",
}
FULL_STATUS: Final[Object] = {
    "RootKey": {
        "state": "Active",
        "currentVersion": 1,
        "versions": [
            {
                "version": 1,
                "state": "Active",
                "createdAt": EARLY,
                "checkValue": "0f" * 16,
                "mechanism": "AES_KWP",
                "secrets": 3,
            }
        ],
        "dependents": {"secrets": 3, "namespaces": 1, "observedAt": EARLY},
        "rotation": {"rewrapped": 0, "total": 0},
        "lastRotationTime": EARLY,
        "conditions": [CONDITION],
        "import": {"publicKey": "-----BEGIN PUBLIC KEY-----", "expiresAt": LATE},
        "observedGeneration": 1,
    },
    "KeyAuthorization": {
        "conditions": [CONDITION],
        "namespaces": 1,
        "secrets": 2,
        "held": [{"namespace": "a", "name": "b", "reason": "restart Deployment a/web"}],
        "unsealable": [{"namespace": "a", "name": "c", "reason": "immutable: delete and create it again"}],
        "lastUnsealTime": EARLY,
        "observedGeneration": 1,
    },
    "KeyRecord": DESTROYED
    | {
        "message": "destroyed",
        "rootKeyUID": "",
        "conditions": [CONDITION | {"type": "Stalled"}],
        "guards": {
            "gracePeriod": "1h",
            "protected": True,
            "stricterGracePeriod": "72h",
            "stricterUntil": LATE,
        },
        "deleteAdmitted": {"by": "test-admin", "time": EARLY, "rootKeyUID": OTHER_ID},
        "destruction": {
            "dueAt": LATE,
            "rootKeyName": "payments",
            "rootKeyUID": OTHER_ID,
            "origin": "Generated",
            "requestedBy": "test-admin",
            "requestedAt": EARLY,
        },
        "token": TOKEN,
        "versions": [VERSION],
        "transitions": entries(2, rootKeyUID=OTHER_ID, detail="x", signature="QUI="),
    },
}
