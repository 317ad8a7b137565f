"""The evaluation mode's token is made once."""

from dataclasses import replace
from typing import Any

import pytest

from keyshred.errors import NotReady, TokenMismatch
from keyshred.policy.evaluation import Found, Step, next_step

RECORD = {"label": "keyshred", "serial": "aa", "mode": "evaluation", "storage": "node", "node": "one"}
NOTHING = Found(serial=None, pins=False, record=None, storage="node", node="one")
ALL = Found(serial="aa", pins=True, record=RECORD, storage="node", node="one")


def test_a_first_start_makes_it_records_it_and_uses_it() -> None:
    assert next_step(NOTHING, make=True) is Step.MAKE
    assert next_step(replace(NOTHING, pins=True), make=True) is Step.MAKE, "a crash came after the PINs"
    assert next_step(replace(ALL, record=None), make=True) is Step.RECORD, "a crash came before the record"
    assert next_step(ALL, make=True) is Step.USE


@pytest.mark.parametrize("found", [NOTHING, replace(NOTHING, pins=True), replace(ALL, record=None)])
def test_others_wait_for_the_one_that_makes_it(found: Found) -> None:
    with pytest.raises(NotReady):
        next_step(found, make=False)
    assert next_step(ALL, make=False) is Step.USE


@pytest.mark.parametrize("make", [True, False])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"serial": None}, "is gone from its folder"),
        ({"serial": None, "pins": False}, "is gone from its folder"),
        ({"serial": None, "node": "two"}, "evaluation.nodeName to one"),
        ({"serial": None, "storage": "pvc"}, "evaluation.storage to node"),
        ({"serial": "bb"}, "the one with aa"),
        ({"pins": False}, "keyshred-token-pins"),
        ({"record": RECORD | {"mode": "production"}}, "mode production"),
        ({"serial": None, "record": RECORD | {"mode": "production"}}, "mode production"),
    ],
)
def test_nothing_is_made_in_place_of_what_is_missing(change: dict[str, Any], says: str, make: bool) -> None:
    with pytest.raises(TokenMismatch, match=says):
        next_step(replace(ALL, **change), make=make)


def test_a_token_of_a_cluster_that_was_here_before_is_set_aside() -> None:
    found = replace(ALL, pins=False, record=None)
    assert next_step(found, make=True) is Step.SET_ASIDE
    with pytest.raises(NotReady):
        next_step(found, make=False)


def test_a_folder_that_came_along_to_another_node_is_used() -> None:
    assert next_step(replace(ALL, node="two"), make=False) is Step.USE
