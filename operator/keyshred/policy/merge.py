"""JSON merge patch (RFC 7396) on plain values: apply one, and make the one that leads from here to there."""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """`target` with `patch` applied: None removes a member, objects merge, all else is replaced whole."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            old = result.get(key)
            result[key] = merged(old if isinstance(old, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """The smallest patch that makes `new` of `old`; empty where they are equal. `new` holds no None."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := difference(before, value):
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch
