"""Label selectors (Kubernetes API conventions, LabelSelector)."""

from collections.abc import Mapping
from typing import Any

from keyshred.errors import Malformed

Labels = Mapping[str, str]


def matches(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether `labels` satisfy `selector`; the empty selector matches everything.

    Raises Malformed for an operator that is not In, NotIn, Exists or DoesNotExist.
    """
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(e, labels) for e in selector.get("matchExpressions") or ())


def _expression(expression: Mapping[str, Any], labels: Labels) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise Malformed(f"label selector: {other} is not an operator")
