"""What the backstop may cost: the largest Secrets and the largest KeyAuthorizations are decided on, not given up."""

import base64
from collections.abc import Iterator
from typing import Final

import pytest

from tests.cluster.kubectl import Kubectl
from tests.integration.policies.asking import ENVELOPE, MARK, PLAIN, Json, Site, answer, grant, secret, until


@pytest.fixture(scope="module")
def bare(site: Site) -> Iterator[Kubectl]:
    """Nobody seals here: what is stored is what the policies let pass."""
    site.take_webhooks_away()
    yield site.kubectl
    site.bring_webhooks_back()


LARGEST: Final[Json] = {
    "matchLabels": {f"label-{i:02}": "v" * 63 for i in range(32)},
    "matchExpressions": [
        {"key": f"key-{i:02}", "operator": "NotIn", "values": [f"{n:016}" for n in range(256)]} for i in range(64)
    ],
}


def test_the_largest_stay_within_what_cel_may_cost(site: Site, bare: Kubectl) -> None:
    """4,096 keys, 1 MiB, a namespace annotation of 2,000 names, and selectors as large as fit into an object."""
    labels = LARGEST["matchLabels"] | {f"key-{i:02}": "other" for i in range(64)}
    held = ",".join(f"held-{i:04}-{'x' * 100}" for i in range(2000))
    name = site.namespace("enabled", held, **labels)
    own = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [name]}
    here = LARGEST | {"matchExpressions": [own, *LARGEST["matchExpressions"][1:]]}
    exclude = {
        "names": [f"{i:0253}" for i in range(1000)],
        "types": [f"x/{i:0251}" for i in range(64)],
        "selector": LARGEST | {"matchLabels": LARGEST["matchLabels"] | {"label-99": ""}},
    }
    bare.create(grant(name, {"namespaces": {"selector": here}, "secrets": {"selector": LARGEST, "exclude": exclude}}))

    def large(keys: int, size: int, mark: dict[str, str] = MARK) -> Json:
        value = base64.b64encode(b"KSH1" + bytes(size)).decode()
        metadata = {"labels": labels | mark, "annotations": ENVELOPE}
        return secret(name, metadata=metadata, data={f"{i:0200}": value for i in range(keys)})

    until(lambda: "would be stored unsealed" in answer(bare, "create", secret(name, metadata={"labels": labels})))
    for mark in (MARK, {}):
        assert not answer(bare, "create", large(4096, 252, mark))
        said = answer(bare, "create", large(4097, 32, mark))
        assert f"Secret {name}/app has 4097 keys" in said and "split it" in said
        plain = large(4096, 252, mark)
        plain["data"] |= {f"{4095:0200}": PLAIN}
        assert "would be stored unsealed" in answer(bare, "create", plain)
    assert not answer(bare, "create", large(1, 1024 * 1024 - 4))
