"""The ledger's head on the token: what shows that a KeyRecord is older than what keyshred knew already.

It is written after the record, so it may be behind by what the webhook wrote or a crash left out. It is never ahead,
unless the record was restored from a backup, begun anew, or forged.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from keyshred.errors import LedgerBehindToken
from keyshred.names import KeyState
from keyshred.policy.ledger import digest


@dataclass(frozen=True, slots=True)
class Head:
    """The newest transition that the controller of one cluster has written."""

    cluster: str
    """UID of the cluster whose ledger it is: several may use one key, each with a KeyRecord of its own."""
    seq: int
    hash: str
    state: KeyState

    @classmethod
    def of(cls, status: Mapping[str, Any], cluster: str) -> Self:
        """Of a KeyRecord's status, which has at least one transition."""
        newest = status["transitions"][-1]
        return cls(cluster, newest["seq"], digest(newest), KeyState(status["state"]))

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Raises LedgerBehindToken for what `encode` did not write."""
        try:
            fields = json.loads(text)
            head = cls(str(fields["cluster"]), int(fields["seq"]), str(fields["hash"]), KeyState(fields["state"]))
        except (ValueError, KeyError, TypeError):
            raise LedgerBehindToken("the ledger's head on the token cannot be read") from None
        return head

    def encode(self) -> bytes:
        """Canonical JSON, about 200 bytes."""
        fields = {"cluster": self.cluster, "seq": self.seq, "hash": self.hash, "state": self.state.value}
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    def is_in(self, status: Mapping[str, Any]) -> bool:
        """Whether the KeyRecord holds the transition that this head names."""
        transitions = status["transitions"]
        return 0 < self.seq <= len(transitions) and digest(transitions[self.seq - 1]) == self.hash

    def check(self, key_id: str, status: Mapping[str, Any]) -> None:
        """Raises LedgerBehindToken unless `is_in`."""
        if self.is_in(status):
            return
        transitions = status["transitions"]
        what = "holds another entry there" if self.seq <= len(transitions) else f"ends at {len(transitions)}"
        raise LedgerBehindToken(
            f"the token remembers transition {self.seq} of this key's ledger (state {self.state}), and the KeyRecord "
            f"{what}: it was restored from an older backup, or begun anew. Nothing is done with this key. Restore the "
            "newer KeyRecord; or, if this one is to count, remove the data object "
            f"keyshred-head:{key_id} with the token's own tools",
            decided=self.state in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED),
        )
