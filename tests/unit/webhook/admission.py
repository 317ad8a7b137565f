"""What the tests of Secret admission share: one Secret's way in, and how it is written."""

import base64
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from keyshred.envelope.format import parse
from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_LAST_APPLIED
from keyshred.policy.secrets import decode_data
from keyshred.webhook.compare_limit import CompareLimit
from keyshred.webhook.keys import Keys
from keyshred.webhook.review import Answer, Review
from keyshred.webhook.secrets import SecretAdmission
from tests.unit.fakes import KEY_A, KEY_B, FakeToken, FixedSnapshot, Uncounted, authorization, policy, root_key

Json = dict[str, Any]


class Cluster:
    """One Secret's way through admission; what is admitted is stored."""

    def __init__(self, *objects: Json, **more: Any) -> None:
        self.token = FakeToken(KEY_A, KEY_B)
        self.snapshot = FixedSnapshot(policy(*(objects or (root_key(), authorization())), **more))
        self.clock = 0.0
        limit = CompareLimit(10, lambda: self.clock)
        self.uncounted = Uncounted()
        self.keys = Keys(self.token.service, self.uncounted.wraps)
        self.admission = SecretAdmission(self.snapshot.snapshot, self.keys, limit)
        self.warnings: tuple[str, ...] = ()

    def set(self, *objects: Json, **more: Any) -> None:
        """Another policy."""
        self.snapshot.now = policy(*objects, **more)

    async def answer(self, new: Json | None, old: Json | None = None, *, user: str = "u", **fields: Any) -> Answer:
        meta = (new or {}).get("metadata")
        name = meta.get("name", "") if isinstance(meta, dict) else "s"
        review = Review("1", "UPDATE" if old else "CREATE", "ns", name, user, False, new, old)
        return await self.admission.admit(dataclasses.replace(review, **fields))

    async def write(self, new: Json, old: Json | None = None, **fields: Any) -> Json:
        """What is stored."""
        answer = await self.answer(new, old, **fields)
        self.warnings = tuple(answer.warnings)
        stored: Json = json.loads(json.dumps(new))
        for operation in answer.patch:
            *parents, last = operation["path"].split("/")[1:]
            target = stored
            for part in parents:
                target = target[part]
            target[last] = operation["value"]
        return stored

    async def opened(self, stored: Json) -> dict[str, bytes]:
        """The plaintext of what is stored; raises where a value does not open."""
        envelope = parse(stored["metadata"]["annotations"][ANNOTATION_ENVELOPE])
        assert (envelope.namespace, envelope.name) == ("ns", stored["metadata"]["name"])
        root_key = self.admission.snapshot.current().root_key(envelope.key_id)
        keys = await self.keys.unlock(envelope, root_key)
        return {k: keys.open(k, v) for k, v in decode_data(stored).items()}


def secret(
    data: Mapping[str, bytes] | None = None,
    /,
    *,
    name: str = "s",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **values: bytes,
) -> Json:
    """A Secret as the API has it; its values by keyword, or as a dict."""
    meta: Json = {"name": name, "namespace": "ns"}
    if labels:
        meta["labels"] = dict(labels)
    if annotations:
        meta["annotations"] = dict(annotations)
    encoded = {k: base64.b64encode(v).decode() for k, v in (dict(data or {}) | values).items()}
    return {"metadata": meta, "type": "Opaque", "data": encoded}


def plaintext(stored: Json, **data: bytes) -> Json:
    """The stored Secret as a manifest that is applied over it: its metadata, and values in plaintext."""
    return stored | {"data": secret(data)["data"]}


def applied_with(data: Mapping[str, bytes]) -> dict[str, str]:
    return {ANNOTATION_LAST_APPLIED: json.dumps({"kind": "Secret", "data": secret(data)["data"]})}
