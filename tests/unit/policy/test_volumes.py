"""What a volume is to hold: the same text for the same content, and nothing that anybody could smuggle in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyshred.errors import Malformed
from keyshred.policy.volumes import (
    ATTRIBUTE_FILES,
    ATTRIBUTE_VARIABLES,
    MAX_PARTS,
    MAX_SECRETS,
    MAX_TEXT,
    Content,
    Files,
    Item,
    Source,
    Variable,
    Variables,
    attributes,
    excess,
    parse,
    parts,
    secrets,
)

_NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,8}[a-z0-9]", fullmatch=True)
_KEYS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,8}", fullmatch=True)
_MODES = st.none() | st.integers(0, 0o777)
_ITEMS = st.builds(Item, _KEYS, st.lists(_KEYS, min_size=1, max_size=3).map("/".join), _MODES)
_SOURCES = st.builds(Source, _NAMES, st.none() | st.lists(_ITEMS, max_size=3).map(tuple), st.booleans())
_FILES = st.builds(
    Files,
    st.lists(_SOURCES, min_size=1, max_size=3).map(tuple),
    st.integers(0, 0o777),
    st.lists(_KEYS, max_size=2).map(tuple),
)
_VARIABLES = st.builds(
    Variables, st.lists(st.builds(Variable, _NAMES, _KEYS, st.booleans()), min_size=1, max_size=4).map(tuple)
)


@given(_FILES | _VARIABLES)
def test_what_is_written_is_read(content: Content) -> None:
    assert parse(attributes(content) | {"csi.storage.k8s.io/pod.name": "p"}) == content
    assert attributes(parse(attributes(content))) == attributes(content)


def test_the_secrets_that_it_needs() -> None:
    assert secrets(Files((Source("a"), Source("b"), Source("a")))) == {"a", "b"}
    assert secrets(Variables((Variable("a", "k"), Variable("c", "k")))) == {"a", "c"}


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../b", "..data", "..", "a/..", "nul\0"])
def test_paths_that_leave_the_volume(path: str) -> None:
    sources = [{"secret": "a", "items": [{"key": "k", "path": path}]}]
    with pytest.raises(Malformed):
        parse({ATTRIBUTE_FILES: json.dumps({"defaultMode": 420, "sources": sources})})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {ATTRIBUTE_FILES: "{}", ATTRIBUTE_VARIABLES: "[]"},
        {ATTRIBUTE_FILES: "no json"},
        {ATTRIBUTE_FILES: '{"sources":[{"secret":"a"}]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":true,"sources":[{"secret":"a"}]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":4096,"sources":[{"secret":"a"}]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[{"secret":"a/b"}]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[{"secret":""}]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[],"nested":["../x"]}'},
        {ATTRIBUTE_VARIABLES: '[{"secret":"a","key":".."}]'},
        {ATTRIBUTE_VARIABLES: '[{"secret":"..","key":"k"}]'},
        {ATTRIBUTE_VARIABLES: '{"secret":"a"}'},
        {ATTRIBUTE_VARIABLES: "{}"},
        {ATTRIBUTE_VARIABLES: '[{"secret":1,"key":"k"}]'},
        {ATTRIBUTE_VARIABLES: '[{"secret":"a","key":null}]'},
        {ATTRIBUTE_VARIABLES: '[{"secret":"a","key":["k"]}]'},
        {ATTRIBUTE_VARIABLES: '[{"secret":"a","key":"\\ud800"}]'},
        {ATTRIBUTE_VARIABLES: "[" * 100_000},
        {ATTRIBUTE_FILES: "[" * 500 + "]" * 500},
        {ATTRIBUTE_FILES: '{"defaultMode":' + "9" * 5000 + ',"sources":[]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":{}}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":""}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":["a"]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[{"secret":"a","items":{}}]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[{"secret":"a","items":"ab"}]}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[],"nested":"ab"}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[],"nested":{"a":1}}'},
        {ATTRIBUTE_FILES: '{"defaultMode":420,"sources":[],"nested":[1]}'},
        {ATTRIBUTE_FILES: 1},
        {ATTRIBUTE_FILES: ["a"]},
        [ATTRIBUTE_FILES],
        "text",
        1,
    ],
)
def test_attributes_that_are_not_ours(given: Any) -> None:
    with pytest.raises(Malformed):
        parse(given)


_MANY = tuple(f"s{n}" for n in range(MAX_SECRETS + 1))
_ITEMS_TOO_MANY = (Item("k", "p"),) * (MAX_PARTS // 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Files(tuple(map(Source, _MANY))), "64 Secrets"),
        (Variables(tuple(Variable(s, "k") for s in _MANY)), "64 Secrets"),
        (Files((Source("a", _ITEMS_TOO_MANY), Source("a", _ITEMS_TOO_MANY))), "4,096 Secrets, items"),
        (Files((Source("a", _ITEMS_TOO_MANY),), nested=("d",) * (MAX_PARTS // 2)), "4,096 Secrets, items"),
        (Variables((Variable("a", "k"),) * (MAX_PARTS + 1)), "4,096 Secrets, items"),
        (Files((Source("a", (Item("k", "p" * MAX_TEXT),)),)), "256 KiB"),
    ],
    ids=["Secrets", "Secrets of values", "items", "directories", "values", "text"],
)
def test_more_than_one_volume_can_hold(content: Content, words: str) -> None:
    assert words in excess(content)
    with pytest.raises(Malformed, match=words):
        parse(attributes(content))


def test_as_much_as_one_volume_can_hold() -> None:
    sources = tuple(Source(s, (Item("k", "p"),) * 30) for s in _MANY[:MAX_SECRETS])
    content = Files(sources, nested=("d",) * (MAX_PARTS - 64 * 31))
    assert parts(content) == MAX_PARTS and excess(content) == ""
    assert parse(attributes(content)) == content
