"""What the planner relies on in a pod (core/v1). What an API server took has it; a template or a record may not."""

from typing import Any, Final, TypeAlias

from keyshred.policy.pod_terms import SECRET_REF_VOLUMES

Shape: TypeAlias = "type[Any] | list[Shape] | dict[str, Shape] | str"

REQUIRED: Final = "required"
"""A string that must be there."""
_REFERENCE: Final[Shape] = {"name": str}
_SECRET_REF: Final[Shape] = {"secretRef": _REFERENCE}
_ITEM: Final[Shape] = {"key": str, "path": str}
_USERS: Final[dict[str, Shape]] = {"runAsUser": int, "runAsGroup": int}
VARIABLE: Final[Shape] = {
    "name": REQUIRED,
    "value": str,
    "valueFrom": {
        "secretKeyRef": {"name": str, "key": str},
        "fileKeyRef": {"volumeName": str, "path": str},
    },
}
SOURCE: Final[Shape] = {"prefix": str, "secretRef": _REFERENCE, "configMapRef": _REFERENCE}
MOUNT: Final[Shape] = {"name": REQUIRED, "mountPath": str}
VOLUME_SOURCE: Final[dict[str, Shape]] = {
    "secret": {"secretName": str, "items": [_ITEM]},
    "projected": {"sources": [{"secret": {"name": str, "items": [_ITEM]}}]},
    "emptyDir": {"medium": str},
    "azureFile": {"secretName": str},
    "csi": {"driver": str, "nodePublishSecretRef": _REFERENCE, "volumeAttributes": {}},
    **dict.fromkeys(SECRET_REF_VOLUMES, _SECRET_REF),
}
_CONTAINER: Final[Shape] = {
    "name": REQUIRED,
    "env": [VARIABLE],
    "envFrom": [SOURCE],
    "volumeMounts": [MOUNT],
    "securityContext": _USERS,
    "resources": {"requests": {}, "limits": {}},
}
SPEC: Final[dict[str, Shape]] = {
    "volumes": [{"name": REQUIRED, **VOLUME_SOURCE}],
    "initContainers": [_CONTAINER],
    "containers": [_CONTAINER],
    "ephemeralContainers": [_CONTAINER],
    "nodeSelector": {},
    "os": {"name": str},
    "securityContext": {"seccompProfile": {}, **_USERS},
}


def fits(value: Any, shape: Shape) -> bool:
    """Whether it has that form. null is as good as nothing, but in a list."""
    if value is None:
        return shape is not REQUIRED
    match shape:
        case dict():
            return isinstance(value, dict) and all(fits(value.get(key), inner) for key, inner in shape.items())
        case list():
            return isinstance(value, list) and all(v is not None and fits(v, shape[0]) for v in value)
        case type():
            return isinstance(value, shape)
        case _:
            return isinstance(value, str)
