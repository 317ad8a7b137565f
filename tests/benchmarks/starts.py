"""How long a pod takes to run, as one client of the API server sees it."""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError

_PATIENCE: Final = 120.0
"""Seconds without any news of a pod."""

Pod = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One kind of pod. form: namespace and name to its manifest."""

    name: str
    namespace: str
    form: Callable[[str, str], Pod]

    def pod(self, name: str) -> Pod:
        """The manifest of one of that name."""
        return self.form(self.namespace, name)


class Client:
    """Creates pods and watches them."""

    def __init__(self, cluster: ControlPlane) -> None:
        admin = cluster.authority.issue("admin", "test-admin", organizations=["system:masters"])
        self._tls = ssl.create_default_context(cafile=str(cluster.authority.certificate))
        self._tls.load_cert_chain(admin.certificate, admin.key)
        self._address = urlsplit(cluster.url).netloc

    def start(self, pod: Pod) -> float:
        """Seconds from its creation, admission included, to the news that it is Running.

        Errors: ClusterError (it is refused, ends, or takes too long).
        """
        name, path = pod["metadata"]["name"], f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods"
        watching, creating = (
            http.client.HTTPSConnection(self._address, context=self._tls, timeout=_PATIENCE) for _ in range(2)
        )
        try:
            watching.request("GET", f"{path}?watch=true&fieldSelector=metadata.name%3D{name}")
            news = watching.getresponse()
            creating.connect()
            began = time.perf_counter()
            creating.request("POST", path, json.dumps(pod), {"Content-Type": "application/json"})
            answer = creating.getresponse()
            said = answer.read()
            if answer.status != http.HTTPStatus.CREATED:
                raise ClusterError(f"pod {name}: {json.loads(said)['message']}")
            while not runs(json.loads(news.readline() or "{}")):
                pass
            return time.perf_counter() - began
        except OSError as error:
            raise ClusterError(f"pod {name} does not run: {error}") from error
        finally:
            watching.close()
            creating.close()


def runs(event: Mapping[str, Any]) -> bool:
    """Whether an event of the watch says that the pod is Running. Errors: ClusterError where it never will be."""
    pod = event.get("object", {})
    phase = pod.get("status", {}).get("phase")
    if event.get("type") not in ("ADDED", "MODIFIED") or phase in ("Succeeded", "Failed"):
        raise ClusterError(f"the watch ended, or the pod: {event.get('type')} {phase}")
    return bool(phase == "Running")


def turns(
    sides: Sequence[Side], start: Callable[[Pod], float], *, rounds: int, starts: int, end_round: Callable[[], None]
) -> dict[str, list[list[float]]]:
    """Per side the seconds of each start of each round: one pod at a time, the sides by turns.

    The order is reversed from round to round. `end_round` is called after each; a first round of one pod of each side
    warms up and does not count.
    """
    seen: dict[str, list[list[float]]] = {side.name: [] for side in sides}
    for number in range(rounds + 1):
        of_round: dict[str, list[float]] = {side.name: [] for side in sides}
        count = starts if number else 1
        for turn in range(count):
            for place, side in enumerate(sides if number % 2 else reversed(sides)):
                # The kubelet sees once a second that an init container has ended (before 1.36, that any has started):
                # starts that began at the same moment of that second would gain or lose much of it by chance.
                time.sleep(turn / count)
                of_round[side.name].append(start(side.pod(f"start-{number}-{turn}-{place}")))
        if number:
            for name, seconds in of_round.items():
                seen[name].append(seconds)
        end_round()
    return seen
