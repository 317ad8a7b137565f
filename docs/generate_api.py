"""Writes docs/api.md from the CRDs: `python docs/generate_api.py`. A test fails where the page has drifted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

Schema = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "api.md"
ORDER: Final = ("rootkeys", "keyauthorizations", "keyrecords", "destructionapprovals")
WELL_KNOWN: Final = {"conditions": "list of Condition", "selector": "LabelSelector"}
"""Fields of Kubernetes' own types, whose inside is described elsewhere."""

INTRO: Final = """\
<!-- Generated from crds/ by docs/generate_api.py: change the CRDs, not this page. -->
# API reference: `keyshred.dev/v1alpha1`

All four kinds are cluster-scoped and have a `status` subresource. `kubectl get keyshred` lists all of them, and
`kubectl explain` shows what stands here. Times are RFC 3339. Durations are Go durations such as `72h` or `1h30m`.
Whatever a rule below forbids is refused by the API server with the message shown. Messages that begin with `not yet`
stand for what a later release brings. `Condition` and `LabelSelector` are the types that Kubernetes uses everywhere.
"""


def load(plural: str) -> Schema:
    """The CRD of that plural name, as `crds/` has it."""
    crd: Schema = yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text())
    return crd


def render() -> str:
    """The whole page."""
    return "\n".join([INTRO, *(line for plural in ORDER for line in _kind(load(plural)["spec"]))])


def _kind(spec: Schema) -> Iterator[str]:
    version = spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    yield f"## {spec['names']['kind']} (`{spec['names']['shortNames'][0]}`)\n"
    yield f"{schema['description']}\n"
    columns = [c["name"] + (" (wide)" if c.get("priority") else "") for c in version["additionalPrinterColumns"]]
    yield f"Columns: {', '.join(columns)}.\n"
    for part in ("spec", "status"):
        yield f"### {spec['names']['kind']} {part}\n"
        yield f"{schema['properties'][part]['description']}\n"
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from _rows(schema["properties"][part], f"{part}.")
        yield ""
    yield "Rules:\n"
    yield from dict.fromkeys(f"- {rule['message']}" for rule in _rules(schema))
    yield ""


def _rows(schema: Schema, prefix: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        need = " (required)" if name in schema.get("required", ()) else ""
        default = field.get("default")
        shown = "" if default in (None, {}) else f"`{_literal(default)}`"
        yield f"| `{prefix}{name}`{need} | {WELL_KNOWN.get(name) or _type(field)} | {shown} | {field['description']} |"
        if name not in WELL_KNOWN:
            listed = field["type"] == "array"
            yield from _rows(field["items"] if listed else field, f"{prefix}{name}{'[]' if listed else ''}.")


def _type(field: Schema) -> str:
    if field["type"] == "array":
        return f"list of {_type(field['items'])}, at most {field['maxItems']}"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    return "time" if field.get("format") == "date-time" else str(field["type"])


def _literal(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rules(schema: Schema) -> Iterator[Schema]:
    yield from schema.get("x-kubernetes-validations", ())
    for child in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        yield from _rules(child)


if __name__ == "__main__":
    PAGE.write_text(render())
