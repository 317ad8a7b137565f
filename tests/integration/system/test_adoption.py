"""Secrets that were there before keyshred."""

import re
import shlex

from tests.cluster.keyshred import Keyshred
from tests.integration.controller.lab import until, until_equal
from tests.integration.system.tenant import Tenant, authorization


def test_what_was_there_before_is_named_and_sealed_as_advised(keyshred: Keyshred, tenant: Tenant) -> None:
    early = Tenant(keyshred, f"{tenant.name}-early")
    early.kubectl.run("create", "namespace", early.name)
    early.create_secret("one", a="from-before")
    early.create_secret("two", a="from-before-too")
    key = {"rootKeyRef": {"name": tenant.name}}
    early.kubectl.apply(authorization(early.name, [early.name], **key))

    def condition(kind: str) -> dict[str, str]:
        status = early.kubectl("get", "keyauthorization", early.name).get("status") or {}
        return next((c for c in status.get("conditions") or () if c["type"] == kind), {"status": "", "reason": ""})

    def is_sealed_by(name: str, command: str) -> bool:
        early.kubectl.run(*shlex.split(command.replace("NAMESPACE", early.name).replace("NAME", name)))
        return b"from-before" not in early.in_etcd(name)

    until_equal(lambda: condition("Sealing")["status"], "True")
    message = condition("Sealing")["message"]
    assert f"2 ({early.name}/one, {early.name}/two)" in message
    assert condition("Ready")["reason"] == "Sealing"
    advice = re.search("`kubectl (.*?)`", message)
    assert advice is not None
    # The API server may take a moment to know the namespace's label.
    until(lambda: is_sealed_by("one", advice[1]))
    until(lambda: is_sealed_by("two", advice[1]))
    # Nobody watches Secrets, and the next resync is a minute away.
    until_equal(lambda: condition("Ready")["reason"], "Authorized", 30)
    assert "under the RootKey" in condition("Ready")["message"]
    assert condition("Sealing")["status"] == "False"
