"""What can be said of the CRDs without an API server; tests/integration/test_crds.py asks a real one."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from docs.generate_api import ORDER, PAGE, ROOT, load, render
from keyshred import names
from keyshred.envelope.format import Mechanism
from keyshred.policy.ledger import MAX_ENTRIES, Action

Schema = dict[str, Any]

KINDS = {
    names.ROOT_KEYS: ("RootKey", "rk"),
    names.KEY_AUTHORIZATIONS: ("KeyAuthorization", "ka"),
    names.KEY_RECORDS: ("KeyRecord", "kr"),
    names.DESTRUCTION_APPROVALS: ("DestructionApproval", "da"),
}


def schema_of(plural: str) -> Schema:
    schema: Schema = load(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema below and with this one: `.spec.names[]`, `.labels{}`."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


ALL = [(plural, path, schema) for plural in KINDS for path, schema in walk(schema_of(plural))]


def named(last: str) -> list[tuple[str, str, Schema]]:
    """The fields of that name in all CRDs."""
    return [(plural, path, schema) for plural, path, schema in ALL if path.endswith(f".{last}")]


def quoted(rule: str) -> set[str]:
    return set(re.findall(r"'([^']*)'", rule))


def test_one_file_for_each_kind() -> None:
    assert {file.stem for file in (ROOT / "crds").iterdir()} == set(KINDS) == set(ORDER)


@pytest.mark.parametrize("plural", KINDS)
def test_names(plural: str) -> None:
    crd = load(plural)
    kind, short = KINDS[plural]
    assert crd["metadata"]["name"] == f"{plural}.{names.GROUP}"
    assert (crd["spec"]["group"], crd["spec"]["scope"]) == (names.GROUP, "Cluster")
    assert crd["spec"]["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["keyshred"],
    }
    assert [version["name"] for version in crd["spec"]["versions"]] == [names.VERSION]
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_every_field_is_described_in_two_short_sentences_at_most() -> None:
    for plural, path, schema in ALL:
        if path.endswith(("[]", "{}")):
            continue
        description = schema.get("description", "")
        where = f"{plural}{path}: {description}"
        assert description.endswith(".") and not description.endswith(".."), where
        assert len(re.findall(r"[.;] ", description)) <= 1, where
        assert len(description) <= 160, where


def test_everything_is_bounded_and_typed() -> None:
    for plural, path, schema in ALL:
        where = f"{plural}{path}"
        match schema["type"]:
            case "string":
                assert "enum" in schema or "maxLength" in schema, where
            case "array":
                assert "maxItems" in schema and "x-kubernetes-list-type" in schema, where
            case "integer":
                assert schema["minimum"] >= 0 and schema["format"] in ("int32", "int64"), where
            case "object":
                typed = "properties" in schema or "maxProperties" in schema
                assert typed and not any("preserve-unknown-fields" in key for key in schema), where
            case other:
                assert other == "boolean", where


def test_times_have_their_format_and_durations_their_pattern() -> None:
    for plural, path, schema in ALL:
        if re.search(r"(Time|At|\.time|earliestAdoption)$", path):
            assert schema.get("format") == "date-time", f"{plural}{path}"
    durations = [schema["pattern"] for _, _, schema in named("interval") + named("gracePeriod")]
    assert len(durations) == 3 and len(set(durations)) == 1


def test_every_rule_says_what_is_wrong_and_what_to_do() -> None:
    rules = [
        (f"{plural}{path}", rule) for plural, path, schema in ALL for rule in schema.get("x-kubernetes-validations", ())
    ]
    assert rules
    for where, rule in rules:
        assert re.search(r": .*", rule["message"]), where
        if rule["message"].startswith("not yet"):
            assert re.match(r"not yet: \S.*; .* later release", rule["message"]), where


@pytest.mark.parametrize("field", ["keyID", "checkValue", "mechanism", "origin", "state"])
def test_a_field_that_occurs_often_has_one_shape(field: str) -> None:
    ignored = {"description", "default", "x-kubernetes-validations"}
    shapes = {repr({k: v for k, v in schema.items() if k not in ignored}) for _, _, schema in named(field)}
    assert len(shapes) == 1


def test_conditions_and_selectors_are_the_same_everywhere() -> None:
    for field, places in (("conditions", 4), ("selector", 3)):
        ignored = {"description", "x-kubernetes-validations"}
        shapes = [{k: v for k, v in schema.items() if k not in ignored} for _, _, schema in named(field)]
        assert len(shapes) == places and all(shape == shapes[0] for shape in shapes)


def test_states_are_those_of_names() -> None:
    assert len(named("state")) == 3
    for _, _, schema in named("state"):
        assert schema["enum"] == [state.value for state in names.KeyState]


def test_condition_types_are_told() -> None:
    told = " ".join(schema["description"] for _, _, schema in named("conditions"))
    assert {condition for condition in names.Condition if not re.search(rf"\b{condition}\b", told)} == set()


def test_what_is_never_sealed_is_that_of_names() -> None:
    spec = schema_of(names.KEY_AUTHORIZATIONS)["properties"]["spec"]["properties"]
    namespaces = spec["namespaces"]["properties"]["names"]["items"]
    assert quoted(namespaces["x-kubernetes-validations"][0]["rule"]) == names.NEVER_SEALED_NAMESPACES
    secrets = spec["secrets"]["properties"]
    assert quoted(secrets["types"]["items"]["x-kubernetes-validations"][0]["rule"]) == names.NEVER_SEALED_TYPES
    assert all(kind in secrets["types"]["description"] for kind in names.BY_NAME_ONLY_TYPES)


def test_the_ledger_takes_what_keyshred_writes() -> None:
    transitions = schema_of(names.KEY_RECORDS)["properties"]["status"]["properties"]["transitions"]
    assert transitions["maxItems"] == MAX_ENTRIES
    action = transitions["items"]["properties"]["action"]
    assert [a for a in Action if not re.search(action["pattern"], a) or len(a) > action["maxLength"]] == []
    assert named("mechanism")[0][2]["enum"] == [mechanism.value for mechanism in Mechanism]


def test_what_is_hashed_and_signed_has_no_defaults() -> None:
    status = schema_of(names.KEY_RECORDS)["properties"]["status"]
    assert [path for path, schema in walk(status) if "default" in schema] == []


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run: python docs/generate_api.py"
