"""`keyshred check`: what `helm test` asks of an installation."""

import asyncio
import ssl

import aiohttp

from keyshred.config import CheckSettings
from keyshred.errors import ConfigInvalid, NotReady
from keyshred.kube.client import Json, Kube, own_path
from keyshred.names import API_VERSION, ROOT_KEYS


def run(settings: CheckSettings) -> None:
    """Prints what was found good. Raises NotReady, or what the API server answered."""
    asyncio.run(_run(settings))


async def _run(settings: CheckSettings) -> None:
    try:
        tls = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalid(f"--ca {settings.ca}: no certificates in PEM form") from error
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as http,
            http.get(f"{settings.url}/readyz", ssl=tls) as answer,
        ):
            if answer.status != 200:
                raise NotReady(f"{settings.url}/readyz answers {answer.status}: see the webhook's log")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotReady(f"{settings.url}/readyz: {type(error).__name__}") from error
    print(f"{settings.url} is ready: its certificate holds, and its token answers", flush=True)
    kube = await Kube.connect(settings.kubeconfig)
    try:
        key: Json = {"apiVersion": API_VERSION, "kind": "RootKey", "metadata": {"generateName": "keyshred-test-"}}
        made = await kube.create(f"{own_path(ROOT_KEYS)}?dryRun=All", key)
    finally:
        await kube.close()
    if not (made.get("spec") or {}).get("keyID"):
        raise NotReady("the API server takes a RootKey without asking keyshred: are the webhook configurations there?")
    print("the API server asks keyshred, and trusts its certificate (a RootKey was tried as a dry run)", flush=True)
