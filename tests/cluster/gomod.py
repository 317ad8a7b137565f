"""Writes go/TOOL/{tools.go,go.mod,go.sum} from the pins: what `make lock` calls.

One Go module per tool, so that their requirements cannot pull at each other. The results are committed and builds use
`-mod=readonly`, so a build gets exactly what was locked.
"""

import json
import os
import re
import subprocess
from pathlib import Path

from tests.cluster import versions
from tests.cluster.build import TOOLS, Tool


def lock_all() -> None:
    """Writes the files of every tool anew. Needs the network. Errors: subprocess.CalledProcessError."""
    for tool in TOOLS.values():
        _lock(tool)


def _lock(tool: Tool) -> None:
    tool.directory.mkdir(parents=True, exist_ok=True)
    imports = "".join(f'\t_ "{package}"\n' for package in tool.packages.values())
    (tool.directory / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\nimport (\n{imports})\n")
    requires = "".join(f"\t{module} {version}\n" for module, version in tool.modules.items())
    replaces = "".join(f"\t{module} => {module} {version}\n" for module, version in _staging(tool).items())
    (tool.directory / "go.mod").write_text(
        f"module {tool.module}\n\ngo {versions.GO}.0\n\ngodebug default=go{versions.GO}\n\n"
        f"require (\n{requires})\n" + (f"\nreplace (\n{replaces})\n" if replaces else "")
    )
    (tool.directory / "go.sum").unlink(missing_ok=True)
    _go(tool.directory, "mod", "tidy")


def _staging(tool: Tool) -> dict[str, str]:
    """Modules that a pinned one's go.mod replaces by folders beside it, and the version they are published under.

    A replace directive counts in the main module only, so ours has to say it again (v1.36.3 is v0.36.3 there).
    """
    names: dict[str, str] = {}
    for module, version in tool.modules.items():
        downloaded = json.loads(_go(tool.directory, "mod", "download", "-json", f"{module}@{version}", alone=True))
        text = Path(downloaded["GoMod"]).read_text()
        published = "v0." + version.split(".", 1)[1]
        names |= dict.fromkeys(re.findall(r"^\s*(\S+) => \./staging/", text, re.MULTILINE), published)
    return names


def _go(directory: Path, *arguments: str, alone: bool = False) -> str:
    # Outside a module "mod download" takes any module@version and leaves no trace in the folder.
    where = directory.parents[3] if alone else directory
    env = os.environ | ({"GO111MODULE": "on"} if alone else {})
    return subprocess.run(["go", *arguments], cwd=where, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
