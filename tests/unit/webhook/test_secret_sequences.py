"""Sequences of writes over one Secret, against a model of what its writer means."""

import asyncio
import base64
from collections.abc import Mapping

from hypothesis import event, given, settings
from hypothesis import strategies as st

from keyshred.errors import KeyshredError
from keyshred.names import ANNOTATION_ENVELOPE, LABEL_KEY_ID, LABEL_ROOT_KEY
from keyshred.policy.secrets import decode_data
from tests.unit.fakes import KEY_B, authorization, root_key
from tests.unit.webhook.admission import Cluster, Json, secret

KEYS = "abc"
_plaintexts = st.dictionaries(st.sampled_from(KEYS), st.binary(max_size=3).map(lambda v: b"plain" + v), max_size=3)
_writes = st.tuples(
    st.sampled_from(["apply", "merge", "touch", "drop annotations", "restore", "copy", "swap", "move", "recreate"]),
    _plaintexts,
    st.sampled_from(["seal", "seal", "seal", "suspend", "second key", "reseal", "unseal only", "uncovered"]),
)

SETTINGS: Mapping[str, tuple[Json, ...]] = {
    "seal": (root_key(), root_key("rk2", KEY_B), authorization()),
    "suspend": (root_key(suspended=True), root_key("rk2", KEY_B), authorization()),
    "second key": (
        root_key(),
        root_key("rk2", KEY_B),
        authorization(),
        authorization("ka2", root_key="rk2", key_id=KEY_B),
    ),
    "reseal": (root_key(), root_key("rk2", KEY_B), authorization(reapply="AlwaysReseal")),
    "unseal only": (root_key(), root_key("rk2", KEY_B), authorization(operations=["Unseal"])),
    "uncovered": (root_key(), root_key("rk2", KEY_B)),
}


class Story:
    """What is stored, what it should open to, and every earlier state with what that opened to."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.stored: Json | None = None
        self.meant: dict[str, bytes] = {}
        self.past: list[tuple[Json, dict[str, bytes]]] = []

    async def write(self, how: str, values: dict[str, bytes], policy: str) -> None:
        """One write, under the policy; a refused one changes nothing."""
        self.cluster.set(*SETTINGS[policy])
        old = self.stored
        meta = dict(old["metadata"]) if old else secret()["metadata"]
        data = dict(old["data"]) if old else {}
        meant = dict(self.meant)
        match how:
            case "apply":
                data, meant = secret(values)["data"], dict(values)
            case "merge":
                data |= secret(values)["data"]
                meant |= values
            case "touch":
                meta["finalizers"] = [*meta.get("finalizers", ()), "x"]
            case "drop annotations":
                meta = secret()["metadata"]
            case "restore" if self.past:
                before, meant = self.past[len(values) % len(self.past)]
                meta, data = before["metadata"], before["data"]
            case "copy":
                # Of another Secret: it must not get in, so what was meant stays.
                self.cluster.set(*SETTINGS["second key"])
                foreign = await self.cluster.write(
                    secret({"a": b"plain of t"}, name="t", labels={LABEL_ROOT_KEY: "rk"})
                )
                self.cluster.set(*SETTINGS[policy])
                data = data | foreign["data"]
            case "swap" if len(data) > 1:
                one, two = sorted(data)[:2]
                data[one], data[two] = data[two], data[one]
                if old is not None and not sealed_or_empty(old):
                    meant[one], meant[two] = meant[two], meant[one]
            case "move":
                name = "rk2" if (meta.get("labels") or {}).get(LABEL_ROOT_KEY) == "rk" else "rk"
                meta["labels"] = (meta.get("labels") or {}) | {LABEL_ROOT_KEY: name}
            case "recreate" if old is not None:
                old, meta, data, meant = None, secret()["metadata"], secret(values)["data"], dict(values)
        new = secret() | {"metadata": meta, "data": data}
        try:
            stored = await self.cluster.write(new, old)
        except KeyshredError:
            event(f"{how}: refused")
            return
        event(f"{how}: stored")
        if sealed_or_empty(stored):
            self.past.append((stored, meant))
        self.stored, self.meant = stored, meant

    async def check(self, covered: bool) -> None:
        """No plaintext of a covered Secret is stored, and what is stored opens to what was meant."""
        stored = self.stored
        if stored is None or not stored["data"]:
            return
        self.cluster.set(*SETTINGS["second key"])
        if ANNOTATION_ENVELOPE in (stored["metadata"].get("annotations") or {}):
            assert await self.cluster.opened(stored) == self.meant
            assert LABEL_KEY_ID in stored["metadata"]["labels"]
        else:
            assert not covered and decode_data(stored) == self.meant


def sealed_or_empty(stored: Json) -> bool:
    return all(base64.b64decode(v).startswith(b"KSH1") for v in stored["data"].values())


@settings(max_examples=200, deadline=None)
@given(st.lists(_writes, min_size=1, max_size=8))
def test_what_is_stored_is_sealed_and_opens_to_what_was_meant(writes: list[tuple[str, dict[str, bytes], str]]) -> None:
    async def run() -> None:
        story, covered = Story(), True
        for how, values, policy in writes:
            before = story.stored
            await story.write(how, values, policy)
            if story.stored is not before:
                # What is sealed stays sealed; plaintext is stored only by what nobody wants sealed at that moment.
                was_sealed = how != "recreate" and before is not None and before["data"] and sealed_or_empty(before)
                covered = policy not in ("unseal only", "uncovered") or bool(was_sealed)
            await story.check(covered)

    asyncio.run(run())
