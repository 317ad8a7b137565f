"""The chart, rendered. `python -m tests.cluster.chart` writes `install/` anew.

The demo and most tests install from there, so that the demo need not build Helm; a test fails where it has drifted.
"""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster import build, paths, versions
from tests.cluster.errors import ClusterError

CHART: Final = paths.REPOSITORY / "charts" / "keyshred"
INSTALL: Final = Path(__file__).parent / "install"
NAMESPACE: Final = "keyshred"
_PARTS: Final = {
    "rbac.yaml": ("webhook/rbac.yaml", "controller/rbac.yaml", "tenant-roles.yaml"),
    "policies.yaml": ("policies/*.yaml",),
    "webhooks.yaml": ("webhook/configurations.yaml",),
}
_HEAD: Final = "# Rendered from charts/keyshred by tests/cluster/chart.py: change it there.\n"
_OWN_NAMESPACE: Final = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"


def helm(*arguments: str, kubeconfig: Path | None = None) -> str:
    """Runs Helm; returns what it prints, hooks included. Errors: ClusterError with Helm's own message."""
    build.ensure(["helm"])
    access = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
    with tempfile.TemporaryDirectory() as home:
        # Not the plugins, repositories and preferences of the person who runs the tests.
        env = {"PATH": "/usr/bin:/bin", "HOME": home}
        done = subprocess.run(
            [str(paths.binaries() / "helm"), *arguments, *access], env=env, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ClusterError(f"helm {arguments[0]}: {done.stderr.strip()}")
    return done.stdout + (done.stderr if arguments[0] != "template" else "")  # logs of hooks are on stderr


def values_file(folder: Path, values: Mapping[str, Any]) -> Path:
    """The values as a file of Helm's."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    return file


def template(values: Mapping[str, Any], *, flags: Sequence[str] = (), namespace: str = NAMESPACE) -> str:
    """`helm template`, without a cluster. Errors: ClusterError."""
    version = versions.KUBERNETES.removeprefix("v")
    with tempfile.TemporaryDirectory() as folder:
        file = values_file(Path(folder), values)
        command = ["template", "keyshred", str(CHART), f"--namespace={namespace}", f"--kube-version={version}"]
        return helm(*command, f"--values={file}", *flags)


def render(values: Mapping[str, Any], *, flags: Sequence[str] = (), namespace: str = NAMESPACE) -> list[Any]:
    """The same as objects."""
    return [document for document in yaml.safe_load_all(template(values, flags=flags, namespace=namespace)) if document]


def installed() -> dict[str, str]:
    """File of `install/` to its content, as the chart has it now. Errors: ClusterError."""
    result = {}
    for name, templates in _PARTS.items():
        flags = [f"--show-only=templates/{template}" for template in templates]
        rendered = template({}, flags=flags)
        result[name] = _HEAD + (_OWN_NAMESPACE if name == "rbac.yaml" else "") + rendered
    return result


if __name__ == "__main__":
    for name, content in installed().items():
        (INSTALL / name).write_text(content)
