"""What sealed Secrets cost pods, on a real node: the design's row 6, and the driver's memory of row 8."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks import starts
from tests.benchmarks.rows import Figure, Size, resident
from tests.benchmarks.starts import Pod, Side
from tests.cluster import accounts, release
from tests.cluster.errors import ClusterError
from tests.cluster.node import Node
from tests.e2e.installed import NODE, Installed
from tests.e2e.pods import STAY, mounting, pod, secret, wait_running
from tests.integration.system.tenant import READER, Tenant

NATIVE: Final = "benchmark-native"
"""A namespace that keyshred has nothing to do with."""

# Root in an ordinary container has neither.
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
_SECRET: Final = "db"
_VALUES: Final = {"username": b"database-user", "password": b"correct-horse-battery-staple-4711"}
_VOLUME, _ENVIRONMENT = ("keyshred, volume", "native, volume"), ("keyshred, environment", "native, environment")


@dataclass(frozen=True)
class Stage:
    """A node with keyshred, and an equal Secret in two namespaces: the tenant's, which seals, and NATIVE."""

    node: Node
    installed: Installed
    tenant: Tenant

    def sides(self) -> list[Side]:
        """Pods that get the Secret in a volume, and pods that get it in their environment; sealed and native each."""
        return [
            Side(name, namespace, form)
            for names, form in ((_VOLUME, _with_volume), (_ENVIRONMENT, _with_environment))
            for name, namespace in zip(names, self._namespaces(), strict=True)
        ]

    def delete_pods(self) -> None:
        """Returns when the node has cleaned up after them. Errors: ClusterError."""
        for namespace in self._namespaces():
            self.node.kubectl.run("delete", "pods", "--all", f"--namespace={namespace}", "--timeout=120s")

    def driver_processes(self) -> list[int]:
        """Process IDs of the driver's container, by its control group."""
        [driver] = self.installed.pods(NODE)
        [container] = driver["status"]["containerStatuses"]
        name = container["containerID"].rpartition("/")[2]
        return [int(file.parent.name) for file in Path("/proc").glob("[0-9]*/cgroup") if name in _text(file)]

    def _namespaces(self) -> tuple[str, str]:
        return self.tenant.name, NATIVE


def obstacle() -> str | None:
    """Why this machine cannot run a node; None where it can."""
    if os.geteuid() != 0:
        return "a node needs root"
    [effective] = re.findall(r"^CapEff:\s+(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    missing = [name for name, bit in _CAPABILITIES.items() if not int(effective, 16) >> bit & 1]
    return f"a node needs {' and '.join(missing)}" if missing else None


@contextmanager
def raised() -> Iterator[Stage]:
    """Everything that is needed, built where it is missing and started; stopped and removed in the end.

    Errors: ClusterError, also where another node runs on this machine.
    """
    with Node.temporary("benchmark-pods") as node:
        release.install(node)
        installed = Installed(node)
        stage = Stage(node, installed, Tenant.create_with_key_first(installed))
        node.kubectl.run("create", "namespace", NATIVE)
        accounts.create(node.kubectl, NATIVE, READER)
        for namespace in (stage.tenant.name, NATIVE):
            node.kubectl.create(secret(namespace, _SECRET, _VALUES))
        yield stage


def measure(stage: Stage, size: Size, say: Callable[[str], None]) -> list[Figure]:
    """Row 6, and of row 8 the driver. Errors: ClusterError."""
    say("measuring row 6, starts of pods")
    seen = starts.turns(
        stage.sides(),
        starts.Client(stage.node).start,
        rounds=size.rounds,
        starts=size.starts,
        end_round=stage.delete_pods,
    )
    say("measuring row 8, the driver's memory")
    return [*start_figures(seen), driver_memory(stage, size)]


def start_figures(seen: Mapping[str, Sequence[Sequence[float]]]) -> list[Figure]:
    """Row 6, of the seconds of each start of each round of each side."""
    p50 = {name: [median(seconds) * 1000 for seconds in rounds] for name, rounds in seen.items()}

    def figure(
        what: str, names: tuple[str, str], unit: str, of: Callable[[float, float], float], goal: float
    ) -> Figure:
        values = [of(ours, native) for ours, native in zip(p50[names[0]], p50[names[1]], strict=True)]
        sides = {name.partition(",")[0]: f"{median(p50[name]):,.0f} ms" for name in names}
        return Figure("6", what, unit, values, at_most=goal, sides=sides)

    return [
        figure("p50 from create to Running, a Secret in a volume ÷ native", _VOLUME, "", lambda a, b: a / b, 1.1),
        figure(
            "p50 from create to Running, a Secret in the environment: added to native",
            _ENVIRONMENT,
            "ms",
            lambda a, b: a - b,
            1000.0,
        ),
    ]


def driver_memory(stage: Stage, size: Size) -> Figure:
    """Of row 8 the driver, when pods with volumes have just been started, all at once."""
    names = [f"at-once-{number}" for number in range(size.pods_at_once)]
    namespace = stage.tenant.name
    stage.node.kubectl.create(*(_with_volume(namespace, name) for name in names))
    wait_running(stage.node.kubectl, namespace, *names, seconds=300)
    processes = stage.driver_processes()
    if not processes:
        raise ClusterError("no process of the driver is found")
    values = [sum(resident(process) for process in processes)]
    what = f"node driver, resident, {size.pods_at_once} pods with volumes started at once"
    return Figure("8", what, "MB", values, at_most=80.0)


def _with_volume(namespace: str, name: str) -> Pod:
    return mounting(namespace, name, _SECRET, serviceAccountName=READER, terminationGracePeriodSeconds=1)


def _with_environment(namespace: str, name: str) -> Pod:
    env = [{"name": key.upper(), "valueFrom": {"secretKeyRef": {"name": _SECRET, "key": key}}} for key in _VALUES]
    container = {"env": env}
    return pod(namespace, name, STAY, container=container, serviceAccountName=READER, terminationGracePeriodSeconds=1)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has ended meanwhile
        return ""
