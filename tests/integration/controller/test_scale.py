"""What a destruction costs: calls of the token, whatever depends on the key."""

import asyncio
import re
from pathlib import Path

from keyshred.kube.client import Kube, path
from tests.cluster.softhsm import MODULE, SoftHsm
from tests.integration.controller.lab import Lab, sealed, until, until_equal

SPY = next(Path("/usr/lib").rglob("pkcs11-spy.so"))
"""Of Debian's opensc; its folder depends on the architecture."""
AT_ONCE = 64


class Spied(SoftHsm):
    """A token behind opensc's spy, which writes down each call of the module."""

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"PKCS11SPY": str(MODULE), "PKCS11SPY_OUTPUT": str(self.directory / "spy.log")}

    def uri_of(self, label: str) -> str:
        return super().uri_of(label).replace(str(MODULE), str(SPY))

    def calls(self) -> list[str]:
        """Names of the functions that were called so far."""
        return re.findall(r"^\d+: (C_\w+)$", (self.directory / "spy.log").read_text(), re.MULTILINE)


def test_ten_thousand_dependents_cost_no_more_calls_than_ten(running: Lab, name: str) -> None:
    running.clear()  # what others left would be looked for on this token as well
    few, many = _shred(running, f"{name}-few", 10), _shred(running, f"{name}-many", 10_000)
    assert "C_DestroyObject" in few and len(few) < 1000
    assert many == few


def _shred(running: Lab, name: str, dependents: int) -> list[str]:
    """Calls of the token from the delete to the last of the RootKey, on a token with no other key."""
    token = Spied.create(running.cluster.directory / name)
    # Nobody else looks at the token meanwhile.
    running.start("--resync=3600", "--repeat-search-after=3600", hsm=token)
    key_id = running.root_key(name)
    until_equal(lambda: running.ready(name), ("True", "KeyActive"))
    running.kubectl.run("create", "namespace", name)
    running.kubectl.run("label", "namespace", name, "keyshred.dev/sealing=enabled")
    running.authorize(name, {"rootKeyRef": {"name": name}, "namespaces": {"names": [name]}})
    asyncio.run(_seal(running, name, key_id, dependents))
    until_equal(lambda: running.get("rootkey", name)["status"].get("dependents", {}).get("secrets"), dependents)
    before = len(token.calls())
    running.delete(name)
    until(lambda: running.is_gone("rootkey", name))
    assert running.get("keyrecord", key_id)["status"]["evidence"]["dependents"]["secrets"] == dependents
    calls = token.calls()[before:]
    running.kubectl.run("delete", "keyauthorization", name)
    return calls


async def _seal(running: Lab, namespace: str, key_id: str, count: int) -> None:
    kube = await Kube.connect(str(running.cluster.kubeconfig))
    room = asyncio.Semaphore(AT_ONCE)

    async def create(number: int) -> None:
        async with room:
            await kube.create(path("secrets", namespace=namespace), sealed(namespace, f"secret-{number}", key_id))

    await asyncio.gather(*(create(number) for number in range(count)))
    await kube.close()
