"""`keyshred uninstall-notice`: what `helm uninstall` shows before it begins."""

import asyncio

from keyshred.config import BasicSettings
from keyshred.kube.client import Kube, own_path
from keyshred.names import ROOT_KEYS

_HOW = """\
What stays: the CRDs, RootKeys, KeyRecords, KeyAuthorizations, the keys in the token, and every sealed Secret as
ciphertext. Until keyshred is installed again, nobody can read those, and nothing seals new ones.
To get plaintext back, install keyshred again (it finds its keys), set spec.mode: Release on the KeyAuthorizations,
wait until they are Ready, and uninstall then: docs/adoption.md.
"""


def run(settings: BasicSettings) -> None:
    """Prints it."""
    asyncio.run(_run(settings))


async def _run(settings: BasicSettings) -> None:
    kube = await Kube.connect(settings.kubeconfig)
    try:
        keys = [key async for key in kube.list_all(own_path(ROOT_KEYS))]
    finally:
        await kube.close()
    print("keyshred is uninstalled.")
    for key in keys:
        counted = (key.get("status") or {}).get("dependents") or {}
        secrets, namespaces = counted.get("secrets", 0), counted.get("namespaces", 0)
        print(f"RootKey {key['metadata']['name']}: sealed Secrets: {secrets}, in namespaces: {namespaces}")
    print(_HOW, flush=True)
