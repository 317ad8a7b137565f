"""Every name that others see or rely on, once: API group, labels, annotations, finalizers, conditions, reasons."""

from enum import StrEnum
from typing import Final

GROUP: Final = "keyshred.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

ROOT_KEYS: Final = "rootkeys"
KEY_AUTHORIZATIONS: Final = "keyauthorizations"
KEY_RECORDS: Final = "keyrecords"
DESTRUCTION_APPROVALS: Final = "destructionapprovals"

LABEL_ROOT_KEY: Final = f"{GROUP}/root-key"
"""On a Secret: the name of the RootKey; chosen by the user where several are authorised, else set."""
LABEL_KEY_ID: Final = f"{GROUP}/key-id"
"""On a Secret: cache of the envelope's key ID, so that dependents can be counted by label."""
LABEL_KEY_VERSION: Final = f"{GROUP}/key-version"
"""On a Secret: cache of the envelope's key version."""
ANNOTATION_ENVELOPE: Final = f"{GROUP}/envelope"
"""On a Secret: the envelope (docs/envelope-format.md)."""
LABEL_SEALING: Final = f"{GROUP}/sealing"
"""On a Namespace: `enabled` or `retained`; what the webhook configurations select on."""
ANNOTATION_HELD: Final = f"{GROUP}/held"
"""On a Namespace: names, separated by commas, of the Secrets that were never sealed and are left so for now, since
something still reads them natively. `HELD_ALL`: every Secret that is not sealed yet, while the label settles."""
HELD_ALL: Final = "*"
ANNOTATION_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

FINALIZER: Final = f"{GROUP}/destruction"
"""On a RootKey: holds the object until its key is destroyed, or kept on purpose, and the KeyRecord says so."""

ANNOTATION_NATIVE: Final = f"{GROUP}/native"
"""On a Pod: how it read Secrets before keyshred's webhook changed it, without their values."""
LABEL_ENV_FILES: Final = f"{GROUP}/env-files"
"""On a Node: `true` where the kubelet fills environments from files; pods with Secrets in theirs go to no other."""
TAINT_NOT_READY: Final = f"{GROUP}/not-ready"
"""On a new Node, by whoever makes it: the controller takes it off once the CSI driver is registered there."""

AUDIENCE: Final = GROUP
"""Audience of the ServiceAccount tokens that may call unseal."""
HEADER_CLEARED: Final = "Keyshred-Cleared"
"""Of an unseal call: the volume of the calling pod that the Secret's files were emptied and removed from."""
HEADER_KEY_ID: Final = "Keyshred-Key-ID"
"""Of its answer: the key that the values are sealed under."""

READER_CLUSTER_ROLE: Final = f"{GROUP}:secret-reader"
"""ClusterRole that the controller binds in sealing namespaces, and nowhere else."""
READER_ROLE_BINDING: Final = "keyshred-secret-reader"
COUNTER_CLUSTER_ROLE: Final = f"{GROUP}:secret-counter"
"""ClusterRole (list, watch, patch) that lets the controller watch Secrets by their metadata, and make the API server
send one to the webhook; bound in sealing namespaces, and where a KeyAuthorization is in Preview or Release."""
COUNTER_ROLE_BINDING: Final = "keyshred-secret-counter"
RELEASER_CLUSTER_ROLE: Final = f"{GROUP}:secret-releaser"
"""ClusterRole (get, update) by which the controller puts plaintext back; bound only while mode Release asks for it."""
RELEASER_ROLE_BINDING: Final = "keyshred-secret-releaser"
WEBHOOK_SERVICE_ACCOUNT: Final = "keyshred-webhook"
CONTROLLER_SERVICE_ACCOUNT: Final = "keyshred-controller"
CONTROLLER_LEASE: Final = "keyshred-controller"
WEBHOOK_SERVICE: Final = "keyshred-webhook"
WEBHOOK_CONFIGURATION: Final = "keyshred"
"""Of both, the mutating and the validating one."""
TLS_SECRET: Final = "keyshred-webhook-tls"  # noqa: S105
"""Secret in keyshred's namespace: what the webhook serves with."""
ANNOTATION_SERVED_SINCE: Final = f"{GROUP}/served-since"
"""On it: when that certificate came there."""
CA_SECRET: Final = "keyshred-webhook-ca"  # noqa: S105
"""Secret in keyshred's namespace: the authorities behind it."""
CERT_MANAGER_SECRET: Final = "keyshred-webhook-cert-manager"  # noqa: S105
"""Secret in keyshred's namespace that cert-manager writes, where it is to make the certificates."""
CA_CONFIG_MAP: Final = "keyshred-ca"
"""ConfigMap in keyshred's namespace: what clients of the unseal call trust."""
TOKEN_CONFIG_MAP: Final = "keyshred-token"  # noqa: S105
"""ConfigMap in keyshred's namespace: which token the keys of this cluster are in."""
PINS_SECRET: Final = "keyshred-token-pins"  # noqa: S105
"""Secret in keyshred's namespace: PINs of the evaluation mode's token."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "keyshred"

NEVER_SEALED_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
NEVER_SEALED_TYPES: Final = frozenset(
    {
        "kubernetes.io/service-account-token",
        "bootstrap.kubernetes.io/token",
        "helm.sh/release.v1",
        "kubernetes.io/dockercfg",
        "kubernetes.io/dockerconfigjson",
    }
)
BY_NAME_ONLY_TYPES: Final = frozenset({"kubernetes.io/tls"})
"""Sealed only where a KeyAuthorization names the type: controllers read these through the API."""


class Sealing(StrEnum):
    """Values of the namespace label."""

    ENABLED = "enabled"
    RETAINED = "retained"


class Mode(StrEnum):
    """What a KeyAuthorization does."""

    ENFORCE = "Enforce"
    PREVIEW = "Preview"
    RELEASE = "Release"


class KeyState(StrEnum):
    """States of a root key (NIST SP 800-57 part 1, section 7)."""

    PRE_ACTIVATION = "PreActivation"
    ACTIVE = "Active"
    SUSPENDED = "Suspended"
    DEACTIVATED = "Deactivated"
    PENDING_DESTRUCTION = "PendingDestruction"
    DESTROYED = "Destroyed"


class Condition(StrEnum):
    """Condition types."""

    READY = "Ready"
    KEY_MATERIAL_PRESENT = "KeyMaterialPresent"
    SEALING = "Sealing"
    STALLED = "Stalled"
    """On a KeyRecord, and only while something keeps the destruction of its key from going on."""


class Reason(StrEnum):
    """Condition and Event reasons."""

    # RootKey
    KEY_ACTIVE = "KeyActive"
    KEY_PRESENT = "KeyPresent"
    KEY_MISSING = "KeyMissing"
    KEY_SUSPENDED = "KeySuspended"
    KEY_DEACTIVATED = "KeyDeactivated"
    NOT_YET_ACTIVE = "NotYetActive"
    HSM_UNAVAILABLE = "HsmUnavailable"
    HSM_REFUSED = "HsmRefused"
    PENDING = "Pending"
    DESTRUCTION_SCHEDULED = "DestructionScheduled"
    DESTRUCTION_STARTED = "DestructionStarted"
    KEY_DESTROYED = "KeyDestroyed"
    KEY_KEPT = "KeyKept"
    KEY_ID_IN_USE = "KeyIDInUse"
    KEY_ID_DESTROYED = "KeyIDDestroyed"
    KEY_AMBIGUOUS = "KeyAmbiguous"
    TOKEN_MISMATCH = "TokenMismatch"  # noqa: S105
    TOKEN_BROKEN = "TokenBroken"  # noqa: S105
    LEDGER_BROKEN = "LedgerBroken"
    LEDGER_BEHIND_TOKEN = "LedgerBehindToken"  # noqa: S105
    KEY_CLAIMED = "KeyClaimed"
    KEY_PROTECTED = "KeyProtected"
    KEY_FOUND_AGAIN = "KeyFoundAgain"
    # KeyAuthorization
    AUTHORIZED = "Authorized"
    ROOT_KEY_NOT_FOUND = "RootKeyNotFound"
    ROOT_KEY_NOT_ACTIVE = "RootKeyNotActive"
    CONFLICT = "Conflict"
    EXPIRED = "Expired"
    SEALING = "Sealing"
    ALL_SEALED = "AllSealed"
    SWEEP_STARTED = "SweepStarted"
    PREVIEW = "Preview"
    RELEASING = "Releasing"
    RELEASED = "Released"
    # Pod
    UNSEAL_REFUSED = "UnsealRefused"
    VOLUME_CLEARED = "VolumeCleared"
