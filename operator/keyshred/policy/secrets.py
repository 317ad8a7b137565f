"""What to do with each value of a Secret that is being written: keep, verify, compare or seal.

The plan is made here, from the request alone; the webhook carries it out with the token, and `patch` writes it down.
"""

import base64
import binascii
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from keyshred.envelope.format import OVERHEAD, Envelope, looks_sealed, parse
from keyshred.errors import Malformed, MalformedEnvelope, Refused
from keyshred.names import ANNOTATION_ENVELOPE, ANNOTATION_LAST_APPLIED, LABEL_KEY_ID, LABEL_KEY_VERSION, LABEL_ROOT_KEY
from keyshred.policy.resources import Object

MAX_KEYS: Final = 4096
"""The backstop policy's cost grows with the square of the keys."""
MAX_BYTES: Final = 1024 * 1024
"""The API server's limit on the sum of all values of a Secret."""

_GENERATED_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_LENGTH: Final = 5
_MAX_GENERATED_BASE: Final = 63 - _GENERATED_LENGTH

Values = Mapping[str, bytes]
JsonPatch = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Write:
    """One CREATE or UPDATE of a Secret, decoded."""

    namespace: str
    name: str
    generated: bool
    """The name was chosen here, for generateName."""
    secret: Object
    data: Values
    old_data: Values
    envelope_text: str | None
    old_envelope_text: str | None
    creating: bool
    deleting: bool
    immutable: bool
    """It was immutable before this write, so the API server lets no value change."""
    old_root_key_label: str | None

    @property
    def root_key_label(self) -> str | None:
        """The user's or our own earlier choice of RootKey."""
        return _meta(self.secret, "labels").get(LABEL_ROOT_KEY)


def _meta(obj: Object, kind: str) -> Mapping[str, str]:
    return obj["metadata"].get(kind) or {}


def decode_data(obj: Object) -> dict[str, bytes]:
    """The values of a Secret. Raises Malformed naming the key, never the value."""
    values: dict[str, bytes] = {}
    for key, text in (obj.get("data") or {}).items():
        try:
            # null is how some clients write an empty value
            values[key] = base64.b64decode("" if text is None else text, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise Malformed(f"data[{key}] is not base64") from None
    return values


def generate_name(prefix: str) -> str:
    """A name as the API server would have made it for generateName."""
    suffix = "".join(random.choice(_GENERATED_ALPHABET) for _ in range(_GENERATED_LENGTH))
    return prefix[:_MAX_GENERATED_BASE] + suffix


def read_write(namespace: str, name: str, new: Object, old: Object | None) -> Write:
    """Decodes the request. Raises Malformed for what no API server would send."""
    try:
        meta = new["metadata"]
        if new.get("stringData"):
            raise Malformed("stringData is still there: the API server merges it into data before admission")
        name = name or meta.get("name") or ""
        generated = not name and bool(meta.get("generateName"))
        if generated:
            name = generate_name(meta["generateName"])
        if not name:
            raise Malformed("the Secret has neither name nor generateName")
        return Write(
            namespace=namespace,
            name=name,
            generated=generated,
            secret=new,
            data=decode_data(new),
            old_data=decode_data(old) if old else {},
            envelope_text=_meta(new, "annotations").get(ANNOTATION_ENVELOPE),
            old_envelope_text=_meta(old, "annotations").get(ANNOTATION_ENVELOPE) if old else None,
            creating=old is None,
            deleting=bool(meta.get("deletionTimestamp")),
            immutable=bool(old and old.get("immutable")),
            old_root_key_label=_meta(old, "labels").get(LABEL_ROOT_KEY) if old else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Malformed("the object is no Secret") from error


@dataclass(frozen=True, slots=True)
class Plan:
    """What each value needs. The four sets are disjoint and cover `data`."""

    base: Envelope | None
    """The envelope that kept and verified values belong to; None: everything is plaintext."""
    kept: frozenset[str] = frozenset()
    """Our own ciphertext, unchanged: nothing to do, in every key state and without the HSM."""
    verify: frozenset[str] = frozenset()
    """Ciphertext that was not there before: it must open under `base`."""
    compare: frozenset[str] = frozenset()
    """Plaintext where ciphertext stands: equal means that the old bytes are put back."""
    fresh: frozenset[str] = frozenset()
    """Plaintext to be sealed."""

    @property
    def untouched(self) -> bool:
        """No value needs the key: the write passes in every state."""
        return not (self.verify or self.compare or self.fresh)


def make_plan(write: Write) -> Plan:
    """Sorts the values. Raises Refused for ciphertext that belongs elsewhere and for values that only look sealed."""
    old = _stored_envelope(write)
    sealed = {k for k, v in write.data.items() if looks_sealed(v)}
    unchanged = {k for k in sealed if write.old_data.get(k) == write.data[k]}
    plain = write.data.keys() - sealed

    # A changed annotation over unchanged ciphertext is no restore but a slip: the old envelope is put back.
    restored = sealed - unchanged and write.envelope_text not in (None, write.old_envelope_text)
    if restored:
        base = _own_envelope(write)
        return Plan(base, verify=frozenset(sealed), fresh=frozenset(plain))
    if old is None and sealed:
        if write.data == write.old_data:
            # Not ours, but there before us: a finalizer must still come off, or its namespace hangs for ever.
            return Plan(None, kept=frozenset(write.data))
        raise Refused(
            f"data[{min(sealed)}] starts with KSH1, the mark of a sealed value, but the Secret carries no envelope: "
            "apply the plaintext, or restore the Secret with its annotations"
        )
    if old is None:
        return Plan(None, fresh=frozenset(plain))
    compare = {k for k in plain if looks_sealed(write.old_data.get(k, b""))}
    return Plan(
        old,
        kept=frozenset(unchanged),
        verify=frozenset(sealed - unchanged),
        compare=frozenset(compare),
        fresh=frozenset(plain - compare),
    )


def _stored_envelope(write: Write) -> Envelope | None:
    """None too for one that is damaged or another Secret's, copied in before the namespace was sealing.

    To seal more under that would lose the values; to compare under it would test guesses against another Secret.
    """
    try:
        envelope = parse(write.old_envelope_text or "")
    except MalformedEnvelope:
        return None
    return envelope if (envelope.namespace, envelope.name) == (write.namespace, write.name) else None


def _own_envelope(write: Write) -> Envelope:
    try:
        envelope = parse(write.envelope_text or "")
    except MalformedEnvelope as error:
        raise Refused(f"the annotation {ANNOTATION_ENVELOPE} is damaged ({error}): apply the plaintext") from error
    if (envelope.namespace, envelope.name) != (write.namespace, write.name):
        raise Refused(
            f"its values were sealed for Secret {envelope.namespace}/{envelope.name} and open only there: "
            f"apply the plaintext to make a copy as {write.namespace}/{write.name}"
        )
    return envelope


def check_size(write: Write, plan: Plan) -> None:
    """Raises Refused, with numbers, for too many keys, and where plaintext and overhead pass the API server's limit."""
    if len(write.data) > MAX_KEYS:
        raise Refused(f"the Secret has {len(write.data)} keys; {MAX_KEYS} are the most that can be sealed: split it")
    to_seal = len(plan.fresh) + len(plan.compare)
    total = sum(map(len, write.data.values()))
    if total <= MAX_BYTES < total + to_seal * OVERHEAD:
        raise Refused(
            f"sealing adds {OVERHEAD} bytes to each of {to_seal} values: {total} + {to_seal * OVERHEAD} bytes pass "
            f"the limit of {MAX_BYTES} bytes for a Secret by {total + to_seal * OVERHEAD - MAX_BYTES}"
        )


def blank_last_applied(text: str) -> str | None:
    """The last-applied configuration with its keys and without its values, so that `kubectl apply` still prunes.

    None where it cannot be read: it could hold anything, and kubectl can do nothing with it either.
    """
    try:
        applied = orjson.loads(text)
        for part in ("data", "stringData"):
            if applied.get(part) is not None:
                applied[part] = dict.fromkeys(applied[part].keys(), "")
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        return None
    # The line end is kubectl's own: the same text comes back whichever way the annotation was written.
    return orjson.dumps(applied).decode() + "\n"


def patch(write: Write, data: Values, envelope: Envelope | None, envelope_text: str, root_key: str | None) -> JsonPatch:
    """JSON patch (RFC 6902) from the Secret as sent to the Secret as stored; empty where nothing differs.

    `data` holds every value that is to be stored; `envelope` None: there is none, and no caches of one.
    """
    labels, annotations = dict(_meta(write.secret, "labels")), dict(_meta(write.secret, "annotations"))
    if envelope is None:
        annotations.pop(ANNOTATION_ENVELOPE, None)
        labels.pop(LABEL_KEY_ID, None)
        labels.pop(LABEL_KEY_VERSION, None)
    else:
        annotations[ANNOTATION_ENVELOPE] = envelope_text
        labels[LABEL_KEY_ID] = str(envelope.key_id)
        labels[LABEL_KEY_VERSION] = str(envelope.key_version)
        if root_key is not None:
            labels[LABEL_ROOT_KEY] = root_key
    # Removed, not refused, where it cannot be read: a finalizer must come off whatever stands here.
    applied = annotations.pop(ANNOTATION_LAST_APPLIED, None)
    if applied is not None and (blank := blank_last_applied(applied)) is not None:
        annotations[ANNOTATION_LAST_APPLIED] = blank
    operations = _metadata_patch(write, labels, annotations)
    if write.generated:
        operations.insert(0, {"op": "add", "path": "/metadata/name", "value": write.name})
    if any(data[k] != v for k, v in write.data.items()):
        encoded = {k: base64.b64encode(v).decode() for k, v in data.items()}
        operations.append({"op": "add", "path": "/data", "value": encoded})
    return operations


def unsealed_patch(write: Write, unlabel: bool) -> JsonPatch:
    """The same where the Secret is stored in plaintext, as it was sent: only what an envelope left goes.

    `unlabel`: the RootKey label too. The last-applied configuration stays: it shows no more than the data do.
    """
    labels, annotations = dict(_meta(write.secret, "labels")), dict(_meta(write.secret, "annotations"))
    annotations.pop(ANNOTATION_ENVELOPE, None)
    for cache in (LABEL_KEY_ID, LABEL_KEY_VERSION, *([LABEL_ROOT_KEY] if unlabel else ())):
        labels.pop(cache, None)
    return _metadata_patch(write, labels, annotations)


def _metadata_patch(write: Write, labels: Mapping[str, str], annotations: Mapping[str, str]) -> JsonPatch:
    return [
        {"op": "add", "path": f"/metadata/{kind}", "value": wanted}
        for kind, wanted in (("labels", labels), ("annotations", annotations))
        if wanted != _meta(write.secret, kind)
    ]
