"""Secrets as keyshred may see them without reading one: metadata, listed in sealing namespaces alone."""

from collections.abc import AsyncIterator, Iterable
from typing import Final
from uuid import UUID

from keyshred.envelope.format import Envelope, parse
from keyshred.errors import MalformedEnvelope
from keyshred.kube.client import METADATA_LIST, Json, Kube, path
from keyshred.names import ANNOTATION_ENVELOPE, LABEL_KEY_ID, LABEL_SEALING, NEVER_SEALED_TYPES
from keyshred.policy.lifecycle import Dependents, Tally
from keyshred.policy.resources import SecretMeta
from keyshred.times import utc_now

_OTHER: Final = "(other)"


async def sealing_namespaces(kube: Kube) -> AsyncIterator[Json]:
    """Metadata of the namespaces that carry keyshred's label and are not about to go."""
    async for namespace in kube.list_all(path("namespaces"), accept=METADATA_LIST, selector=LABEL_SEALING):
        if not namespace["metadata"].get("deletionTimestamp"):
            yield namespace["metadata"]


def envelope_of(meta: Json) -> Envelope | None:
    """The envelope of a Secret, from its metadata; None: not sealed."""
    text = (meta.get("annotations") or {}).get(ANNOTATION_ENVELOPE)
    try:
        return parse(text) if text else None
    except MalformedEnvelope:
        return None


async def count_key(kube: Kube, key_id: UUID) -> Dependents:
    """What only this key can open, now."""
    tally = Tally()
    async for namespace in sealing_namespaces(kube):
        secrets = path("secrets", namespace=namespace["name"])
        async for item in kube.list_all(secrets, accept=METADATA_LIST, selector=f"{LABEL_KEY_ID}={key_id}"):
            envelope = envelope_of(item["metadata"])
            # The label is a cache that finds them; the envelope decides.
            if envelope is not None and envelope.key_id == key_id:
                tally.add(namespace["name"], envelope)
    return tally.result(utc_now())


async def secrets(
    kube: Kube, namespace: str, types: Iterable[str]
) -> AsyncIterator[tuple[SecretMeta, Envelope | None]]:
    """Every Secret of a namespace that may be sealed, by metadata alone.

    Metadata does not hold the type, and reading it would mean reading the data; but field selectors know it. `types`
    are those that somebody cares about; all others have the type "(other)".
    """
    wanted = sorted(set(types) - NEVER_SEALED_TYPES)
    queries = {t: f"type={t}" for t in wanted}
    queries[_OTHER] = ",".join(f"type!={t}" for t in (*wanted, *sorted(NEVER_SEALED_TYPES)))
    for secret_type, fields in queries.items():
        async for item in kube.list_all(path("secrets", namespace=namespace), accept=METADATA_LIST, fields=fields):
            meta = item["metadata"]
            yield SecretMeta(meta["name"], secret_type, meta.get("labels") or {}), envelope_of(meta)


async def any_sealed(kube: Kube, namespace: str) -> bool:
    """Whether a sealed Secret is left in the namespace."""
    async for item in kube.list_all(path("secrets", namespace=namespace), accept=METADATA_LIST):
        if ANNOTATION_ENVELOPE in (item["metadata"].get("annotations") or {}):
            return True
    return False
