"""Label selectors mean what they mean to the API server."""

from typing import Any

import pytest

from keyshred.errors import Malformed
from keyshred.policy.selectors import matches

LABELS = {"team": "a", "empty": ""}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"matchLabels": None, "matchExpressions": None}, True),
        ({"matchLabels": {"team": "a"}}, True),
        ({"matchLabels": {"team": "b"}}, False),
        ({"matchLabels": {"team": "a", "tier": "x"}}, False),
        ({"matchLabels": {"empty": ""}}, True),
        ({"matchLabels": {"absent": ""}}, False),
        (expression("team", "In", "a", "b"), True),
        (expression("team", "In", "b"), False),
        (expression("absent", "In", "a"), False),
        (expression("team", "NotIn", "a"), False),
        (expression("team", "NotIn", "b"), True),
        (expression("absent", "NotIn", "a"), True),
        (expression("team", "Exists"), True),
        (expression("absent", "Exists"), False),
        (expression("team", "DoesNotExist"), False),
        (expression("absent", "DoesNotExist"), True),
        ({"matchLabels": {"team": "a"}} | expression("team", "NotIn", "a"), False),
    ],
)
def test_matches(selector: dict[str, Any], expected: bool) -> None:
    assert matches(selector, LABELS) is expected


def test_expressions_are_all_needed() -> None:
    both = {"matchExpressions": [{"key": "team", "operator": "Exists"}, {"key": "absent", "operator": "Exists"}]}
    assert not matches(both, LABELS)


def test_an_unknown_operator_decides_nothing() -> None:
    with pytest.raises(Malformed, match="Near is not an operator"):
        matches(expression("team", "Near", "a"), LABELS)
