"""Puts the plaintext of a sealed Secret back. The one place where the controller reads a Secret, or opens one."""

import base64

from keyshred.controller.parts import Parts
from keyshred.envelope.format import Envelope, looks_sealed
from keyshred.envelope.seal import ValueKeys, unlock
from keyshred.errors import CannotOpen, KeyNotUsable, MalformedValue, Refused
from keyshred.hsm.interface import KeyRef
from keyshred.kube.client import METADATA_ONLY, Json, own_path, path
from keyshred.names import ANNOTATION_ENVELOPE, LABEL_KEY_ID, LABEL_KEY_VERSION, LABEL_ROOT_KEY, ROOT_KEYS
from keyshred.policy.coverage import Task
from keyshred.policy.found import envelope_of
from keyshred.policy.resources import RootKey
from keyshred.policy.secrets import decode_data
from keyshred.policy.states import Action, allows
from keyshred.times import utc_now

_DAMAGED = "it does not open under its envelope: it is damaged or was copied from elsewhere; restore it, or delete it"
_IMMUTABLE = (
    "it is immutable, so its values cannot be replaced: read them (kubectl keyshred reveal), delete it, and create it "
    "again"
)


async def release(parts: Parts, task: Task) -> None:
    """Replaces one sealed Secret by its plaintext, if it is still as it was when that was decided.

    Raises Conflict where somebody else wrote, Refused where it can never be, and what API server and token raise.
    """
    url = path("secrets", task.name, namespace=task.namespace)
    secret = await parts.kube.get(url)
    envelope = envelope_of(secret["metadata"])
    if envelope is None:
        return
    if secret.get("immutable"):
        raise Refused(_IMMUTABLE, reason=_IMMUTABLE)
    if (envelope.namespace, envelope.name) != (task.namespace, task.name):
        raise Refused(_DAMAGED, reason=_DAMAGED)
    await _check_key(parts, task, envelope)
    try:
        dek = await parts.hsm.unwrap(
            KeyRef(envelope.key_id, envelope.key_version), envelope.mechanism, envelope.wrapped_dek
        )
        released = _opened(secret, unlock(dek, envelope))
    except (CannotOpen, MalformedValue):
        raise Refused(_DAMAGED, reason=_DAMAGED) from None
    await parts.kube.replace(url, released, accept=METADATA_ONLY)


async def _check_key(parts: Parts, task: Task, envelope: Envelope) -> None:
    """To release is to unseal: the RootKey is asked again for each Secret. Raises KeyNotUsable."""
    key = RootKey.parse(await parts.kube.get(own_path(ROOT_KEYS, task.root_key)))
    state = key.state(utc_now())
    if key.key_id != envelope.key_id or not allows(state, Action.UNSEAL):
        raise KeyNotUsable(f"the RootKey {task.root_key} is {state}, or it is another key than the Secret's")


def _opened(secret: Json, keys: ValueKeys) -> Json:
    data = {name: keys.open(name, v) if looks_sealed(v) else v for name, v in decode_data(secret).items()}
    meta = dict(secret["metadata"])
    meta["annotations"] = {k: v for k, v in meta["annotations"].items() if k != ANNOTATION_ENVELOPE}
    gone = (LABEL_ROOT_KEY, LABEL_KEY_ID, LABEL_KEY_VERSION)
    meta["labels"] = {k: v for k, v in (meta.get("labels") or {}).items() if k not in gone}
    return secret | {"metadata": meta, "data": {name: base64.b64encode(v).decode() for name, v in data.items()}}
