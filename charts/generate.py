"""Writes what the chart has from elsewhere: `python charts/generate.py`. A test fails where it has drifted.

- charts/keyshred/templates/crds from crds/
- charts/keyshred/README.md from the comments of values.yaml
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "charts" / "keyshred"

CRD_HEAD: Final = """\
{{{{- /* Generated from crds/ by charts/generate.py: change it there. */}}}}
{{{{- if .Values.crds.enabled }}}}
"""
README: Final = """\
<!-- Generated from values.yaml by charts/generate.py: change the comments there. -->
# keyshred

{description}. With no values at all it runs in evaluation mode,
with a token in software; [docs/install.md](../../docs/install.md) says how to go on from there, upgrade and uninstall.

```
helm install keyshred charts/keyshred -n keyshred --create-namespace
```

One release a cluster: admission is the cluster's, and the names that clients rely on (Service `keyshred-webhook`,
ConfigMap `keyshred-ca`) are the same everywhere. values.schema.json refuses what does not exist, so that a misspelt
value is no silent default.

| value | default | |
|---|---|---|
"""


def crd_templates() -> dict[Path, str]:
    """File to content: the CRDs, upgraded by the chart and kept when it goes."""
    return {CHART / "templates" / "crds" / crd.name: _crd(crd.read_text()) for crd in (ROOT / "crds").glob("*.yaml")}


def _crd(text: str) -> str:
    name = yaml.safe_load(text)["metadata"]["name"]
    # Braces of the descriptions are not the template's.
    escaped = re.sub(r"\{\{|\}\}", lambda found: "{{ `" + found[0] + "` }}", text)
    metadata = (
        f'metadata:\n  {{{{- include "keyshred.metadata" (list . "{name}" "" (dict "helm.sh/resource-policy" "keep"))'
    )
    head, rest = re.split(r"^metadata:\n(?:  .*\n)+", escaped, maxsplit=1, flags=re.M)
    return f"{CRD_HEAD.format()}{head}{metadata} | nindent 2 }}}}\n{rest.rstrip()}\n{{{{- end }}}}\n"


def readme() -> str:
    """The chart's README.md. Raises ValueError for a value without a comment."""
    description = yaml.safe_load((CHART / "Chart.yaml").read_text())["description"]
    rows = [f"| `{name}` | `{default}` | {text} |" for name, default, text in _values()]
    return README.format(description=description) + "\n".join(rows) + "\n"


def _values() -> Iterator[tuple[str, str, str]]:
    """Name, default and description of each value."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    defaults = yaml.safe_load("\n".join(lines))
    path: list[str] = []
    comment: list[str] = []
    for line in lines:
        if found := re.match(r" *# (?:-- )?(.*)", line):
            comment = [found[1]] if "# -- " in line else [*comment, found[1]] if comment else []
        elif found := re.match(r"( *)(\w+):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            value = _at(defaults, path)
            # Of those without a comment, what is inside has one each.
            if comment:
                yield ".".join(path), _shown(value), " ".join(comment).replace("|", "\\|")
            elif not isinstance(value, dict) and not _at(defaults, path[:-1]).get("requests"):
                raise ValueError(f"values.yaml: {'.'.join(path)} has no comment that begins with `# --`")
            comment = []


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return text.removesuffix("\n...") if text != "''" else '""'


def main() -> None:
    """Writes all of it."""
    (CHART / "templates" / "crds").mkdir(exist_ok=True)
    for file, content in {**crd_templates(), CHART / "README.md": readme()}.items():
        file.write_text(content)


if __name__ == "__main__":
    main()
