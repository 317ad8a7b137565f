"""What no revision in etcd may hold, after all tests: a value that was to be sealed."""

import base64
import json
from collections.abc import Iterable
from typing import Final

from keyshred.names import ANNOTATION_LAST_APPLIED, NEVER_SEALED_TYPES
from tests.cluster import history
from tests.cluster.control_plane import ControlPlane
from tests.cluster.history import StoredSecret

_LONG: Final = 8
_VARIED: Final = 4
"""Bytes, and different ones of them, from which on a value is not found by chance."""


class Plaintext:
    """What tests say about their Secrets, to be held against the history of etcd."""

    def __init__(self) -> None:
        self._sealing: set[str] = set()
        self._expected: set[tuple[str, str]] = set()
        self._secret: set[bytes] = set()

    def seals(self, namespace: str) -> None:
        """Whatever is stored there from now on is to be sealed."""
        self._sealing.add(namespace)

    def expects(self, namespace: str, *names: str) -> None:
        """These are stored in plaintext on purpose, at some time."""
        self._expected |= {(namespace, name) for name in names}

    def unsealed(self, values: Iterable[str]) -> None:
        """These were sealed."""
        self._secret |= {v.encode() for v in values if len(v) >= _LONG and len(set(v)) >= _VARIED}

    def check(self, cluster: ControlPlane) -> int:
        """Looks through every revision of every key; how many there were. Raises AssertionError that names the keys."""
        count, found, open_values = 0, set[str](), set[bytes]()
        revisions = []
        for revision in history.revisions(cluster):
            count += 1
            revisions.append(revision)
            stored = history.secret(revision)
            if stored is None or not (plain := _in_plaintext(stored)):
                continue
            if self._is_expected(stored):
                open_values |= plain
            else:
                found.add(revision.key)
        for value in self._secret - open_values:
            forms = (value, base64.b64encode(value))
            found |= {revision.key for revision in revisions if any(form in revision.value for form in forms)}
        assert not found, f"plaintext in etcd: {', '.join(sorted(found))}"
        return count

    def _is_expected(self, stored: StoredSecret) -> bool:
        return (
            stored.namespace not in self._sealing
            or stored.type in NEVER_SEALED_TYPES
            or (stored.namespace, stored.name) in self._expected
        )


def _in_plaintext(stored: StoredSecret) -> set[bytes]:
    plain = {value for value in stored.data.values() if not value.startswith(b"KSH1")}
    applied = json.loads(stored.annotations.get(ANNOTATION_LAST_APPLIED, "{}"))
    shown = [*(applied.get("data") or {}).values(), *(applied.get("stringData") or {}).values()]
    return plain | {value.encode() for value in shown if value}


PLAINTEXT: Final = Plaintext()
"""Of all tests on the one installation that they share."""
