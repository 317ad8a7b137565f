"""The dependents of one key, counted without reading one."""

from collections.abc import AsyncIterator
from uuid import UUID

from keyshred.controller.index import Index
from keyshred.kube.client import METADATA_LIST, Json, Kube, path
from keyshred.names import ANNOTATION_ENVELOPE, LABEL_KEY_ID, LABEL_SEALING
from keyshred.policy.found import Sealed, sealed_of
from keyshred.policy.lifecycle import Dependents, Tally
from keyshred.times import utc_now


async def sealing_namespaces(kube: Kube) -> AsyncIterator[Json]:
    """Metadata of the namespaces that carry keyshred's label and are not about to go."""
    async for namespace in kube.list_all(path("namespaces"), accept=METADATA_LIST, selector=LABEL_SEALING):
        if not namespace["metadata"].get("deletionTimestamp"):
            yield namespace["metadata"]


async def count_key(kube: Kube, key_id: UUID, index: Index | None = None) -> Dependents:
    """What only this key can open, now: from the index where that knows all sealing namespaces, else by lists."""
    namespaces = {n["name"] async for n in sealing_namespaces(kube)}
    if index is not None and (counted := index.count(key_id, namespaces)) is not None:
        return counted
    tally = Tally()
    for namespace in namespaces:
        async for _, sealed in _listed(kube, key_id, namespace):
            tally.add(namespace, sealed)
    return tally.result(utc_now())


async def names(kube: Kube, key_id: UUID, index: Index) -> dict[str, frozenset[str]]:
    """By name, in each sealing namespace that has any: from the index where it knows that one, else by a list."""
    found: dict[str, frozenset[str]] = {}
    async for namespace in sealing_namespaces(kube):
        name = namespace["name"]
        known = index.place(name).secrets
        if known is None:
            found[name] = frozenset([n async for n, _ in _listed(kube, key_id, name)])
        else:
            found[name] = frozenset(n for n, s in known.items() if s.sealed is not None and s.sealed.key_id == key_id)
    return {namespace: secrets for namespace, secrets in found.items() if secrets}


async def _listed(kube: Kube, key_id: UUID, namespace: str) -> AsyncIterator[tuple[str, Sealed]]:
    secrets = path("secrets", namespace=namespace)
    async for item in kube.list_all(secrets, accept=METADATA_LIST, selector=f"{LABEL_KEY_ID}={key_id}"):
        sealed = sealed_of(item["metadata"])
        # The label is a cache that finds them; the envelope decides.
        if sealed is not None and sealed.key_id == key_id:
            yield item["metadata"]["name"], sealed


async def any_sealed(kube: Kube, namespace: str) -> bool:
    """Whether a sealed Secret is left in the namespace (a consistent list)."""
    async for item in kube.list_all(path("secrets", namespace=namespace), accept=METADATA_LIST):
        if ANNOTATION_ENVELOPE in (item["metadata"].get("annotations") or {}):
            return True
    return False
