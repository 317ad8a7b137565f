"""What a token holds of keyshred's keys, by their labels: of one key, and of all in one look."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from keyshred.errors import KeyAmbiguous, TokenBroken
from keyshred.hsm import data_objects
from keyshred.hsm.interface import KeyRef, Survey
from keyshred.hsm.pkcs11_token import Data, Session


def versions(key_id: UUID, ids: Iterable[bytes]) -> tuple[KeyRef, ...]:
    """The versions that the CKA_IDs of the objects with the key's label name. Raises KeyAmbiguous; see Device.find."""
    ids = sorted(ids)
    if any(len(cka_id) != 20 or cka_id[:16] != key_id.bytes or cka_id[16:] == bytes(4) for cka_id in ids):
        raise KeyAmbiguous(f"an object labelled {key_id} has a CKA_ID that is not one of this key's")
    if len(set(ids)) != len(ids):
        raise KeyAmbiguous(f"the token holds a version of key {key_id} twice")
    return tuple(KeyRef(key_id, int.from_bytes(cka_id[16:], "big")) for cka_id in ids)


def survey(session: Session, *, data: bool) -> Survey:
    """See Device.survey. `data`: the token keeps data objects."""
    ids = defaultdict[UUID, list[bytes]](list)
    for key in session.aes_keys():
        if key_id := _uuid(key.label()):
            ids[key_id].append(key.cka_id())
    keys = {}
    for key_id, found in ids.items():
        with contextlib.suppress(KeyAmbiguous):
            keys[key_id] = versions(key_id, found)
    claims, heads = defaultdict[UUID, set[str]](set), defaultdict[UUID, list[Data]](list)
    for thing in session.data() if data else ():
        kind, _, rest = thing.label().partition(":")
        key_id_text, _, cluster = rest.partition(":")
        if (key_id := _uuid(key_id_text)) is None:
            continue
        if kind == data_objects.CLAIM:
            claims[key_id].add(cluster)
        elif kind == data_objects.HEAD:
            heads[key_id].append(thing)
    newest = {}
    for key_id, things in heads.items():
        with contextlib.suppress(KeyAmbiguous, TokenBroken):
            if head := data_objects.newest(data_objects.in_order(key_id, things)):
                newest[key_id] = head.value
    return Survey(keys, {key_id: frozenset(uids) for key_id, uids in claims.items()}, newest)


def _uuid(text: str) -> UUID | None:
    """None for what keyshred does not write; the text is compared, since a UUID can be written in many ways."""
    try:
        key_id = UUID(text)
    except ValueError:
        return None
    return key_id if str(key_id) == text else None
