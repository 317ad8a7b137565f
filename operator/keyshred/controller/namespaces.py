"""The sealing label, and with it what is held and the right to see the namespace's Secrets: given, kept, taken away."""

import asyncio
import contextlib
import logging
from collections.abc import Set
from typing import Any, Final

from keyshred.controller import dependents
from keyshred.controller.parts import COUNT_SOON, Job, Kind, Parts
from keyshred.errors import Conflict, KeyshredError, NotFound
from keyshred.kube.client import METADATA_LIST, METADATA_ONLY, Json, own_path, path
from keyshred.names import (
    ANNOTATION_HELD,
    CONTROLLER_SERVICE_ACCOUNT,
    COUNTER_CLUSTER_ROLE,
    COUNTER_ROLE_BINDING,
    HELD_ALL,
    KEY_AUTHORIZATIONS,
    LABEL_MANAGED_BY,
    LABEL_SEALING,
    MANAGED_BY,
    READER_CLUSTER_ROLE,
    READER_ROLE_BINDING,
    RELEASER_CLUSTER_ROLE,
    RELEASER_ROLE_BINDING,
    ROOT_KEYS,
    WEBHOOK_SERVICE_ACCOUNT,
    Mode,
    Sealing,
)
from keyshred.policy import coverage, holding
from keyshred.policy.authorizations import Policy
from keyshred.policy.resources import Authorization, RootKey
from keyshred.times import utc_now

log = logging.getLogger(__name__)

_RBAC: Final = {"group": "rbac.authorization.k8s.io", "version": "v1"}
_ROLES: Final = {
    READER_ROLE_BINDING: (READER_CLUSTER_ROLE, WEBHOOK_SERVICE_ACCOUNT),
    COUNTER_ROLE_BINDING: (COUNTER_CLUSTER_ROLE, CONTROLLER_SERVICE_ACCOUNT),
    RELEASER_ROLE_BINDING: (RELEASER_CLUSTER_ROLE, CONTROLLER_SERVICE_ACCOUNT),
}

_LOOK_AGAIN: Final = 2.0
"""Seconds after which it is looked again whether Secrets and what needs them are listed."""

Bindings = dict[tuple[str, str], Json]
"""RoleBindings of ours by namespace and name."""


async def read_policy(parts: Parts) -> Policy:
    """RootKeys, KeyAuthorizations and namespaces as they are now (consistent lists)."""
    keys = [RootKey.parse(o) async for o in parts.kube.list_all(own_path(ROOT_KEYS))]
    authorizations = [Authorization.parse(o) async for o in parts.kube.list_all(own_path(KEY_AUTHORIZATIONS))]
    listed = parts.kube.list_all(path("namespaces"), accept=METADATA_LIST)
    # In one that is going nothing can be created any more, and all that is ours goes with it.
    namespaces = {o["metadata"]["name"]: o["metadata"] async for o in listed if not _is_going(o)}
    return Policy(
        own_namespace=parts.settings.namespace,
        root_keys={k.name: k for k in keys},
        authorizations=tuple(authorizations),
        namespaces={name: meta.get("labels") or {} for name, meta in namespaces.items()},
        held={name: held for name, meta in namespaces.items() if (held := _held(meta))},
    )


def _is_going(obj: Json) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def _held(meta: Json) -> frozenset[str]:
    return holding.read((meta.get("annotations") or {}).get(ANNOTATION_HELD))


class Namespaces:
    """Reconciles the label and the RoleBindings of every namespace that is selected or labelled, and no other."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._retained_since: dict[str, float] = {}
        self._enabled_since: dict[str, float] = {}
        """Namespaces that settle. After a restart they settle from the start again."""

    async def reconcile(self) -> None:
        """One pass over all of them. What fails in one does not keep the others."""
        policy, now = await read_policy(self._parts), utc_now()
        await self._stamp(policy)
        bindings = await self._bindings()
        changed, failed = False, None
        followed, looked_through = set[str](), set[str]()
        for name, labels in policy.namespaces.items():
            if policy.never_seals(name):
                continue
            modes = {a.mode for a in coverage.selected_by(policy, name, labels, now)}
            if labels.get(LABEL_SEALING) is not None or modes:
                followed.add(name)
            if self._has_settled(name, policy) or Mode.PREVIEW in modes:
                looked_through.add(name)
            try:
                changed |= await self._one(name, modes, policy, bindings)
            except NotFound:
                pass  # it went meanwhile
            except KeyshredError as error:
                log.warning("namespace %s: %s", name, error)
                failed = error
        self._parts.index.follow(followed, looked_through)
        if changed:
            self._parts.enqueue(Job(Kind.COUNT), COUNT_SOON)
        if (expiry := coverage.next_expiry(policy.authorizations, now)) is not None:
            self._parts.enqueue(Job(Kind.NAMESPACES), (expiry - now).total_seconds())
            self._parts.enqueue(Job(Kind.COUNT), (expiry - now).total_seconds() + COUNT_SOON)
        if failed is not None:
            raise failed

    async def _one(self, name: str, modes: Set[Mode], policy: Policy, bindings: Bindings) -> bool:
        label = policy.namespaces[name].get(LABEL_SEALING)
        wanted = coverage.wanted_label(policy, name, policy.namespaces[name], utc_now())
        roles = {COUNTER_ROLE_BINDING} if modes else set[str]()
        if wanted is not None or label is not None:
            roles |= {COUNTER_ROLE_BINDING, READER_ROLE_BINDING}
        if Mode.RELEASE in modes:
            roles.add(RELEASER_ROLE_BINDING)
        # First, so that there is no moment in which a sealed Secret cannot be read by those who may, or be counted.
        await self._bind(name, roles, bindings)
        if wanted is None and label is None:
            return False
        if wanted is not None:
            self._retained_since.pop(name, None)
            if label != wanted:
                await self._label(name, wanted)
                # Not left to the watch alone, which may be about to connect anew.
                self._enabled_since[name] = asyncio.get_running_loop().time()
                self._parts.enqueue(Job(Kind.NAMESPACES), self._parts.settings.settle)
            elif self._has_settled(name, policy):
                await self._hold(name, policy.held[name])
            return label != wanted
        if label != Sealing.RETAINED:
            await self._label(name, Sealing.RETAINED)
        return await self._let_go(name, modes, bindings) or label != Sealing.RETAINED

    def _has_settled(self, name: str, policy: Policy) -> bool:
        """Whether something is held there, and every API server has known the label for long enough."""
        if policy.sealing(name) is not Sealing.ENABLED or name not in policy.held:
            self._enabled_since.pop(name, None)
            return False
        if HELD_ALL not in policy.held[name]:
            return True
        now, settle = asyncio.get_running_loop().time(), self._parts.settings.settle
        ahead = self._enabled_since.setdefault(name, now) + settle - now
        if ahead > 0:
            self._parts.enqueue(Job(Kind.NAMESPACES), ahead)
        return ahead <= 0

    async def _hold(self, name: str, before: frozenset[str]) -> None:
        """Writes what is still held, once all that needs Secrets is known: listed after the namespace had settled."""
        place = self._parts.index.place(name)
        if place.holders is None or place.secrets is None:
            self._parts.enqueue(Job(Kind.NAMESPACES), _LOOK_AGAIN)
            return
        after = holding.still_held(before, place.holders, place.secrets)
        if after != before:
            await self._write(name, {"annotations": {ANNOTATION_HELD: holding.write(after)}})
            log.info("namespace %s: %d Secrets are held", name, len(after))
            self._parts.enqueue(Job(Kind.COUNT), COUNT_SOON)

    async def _let_go(self, name: str, modes: Set[Mode], bindings: Bindings) -> bool:
        """Takes the label of a retained namespace away once nothing sealed is left; whether it did."""
        now, settle = asyncio.get_running_loop().time(), self._parts.settings.settle
        since = self._retained_since.setdefault(name, now)
        # A webhook or an API server that does not know yet could seal one more Secret, and pods would see it as it is.
        if (ahead := since + settle - now) > 0:
            self._parts.enqueue(Job(Kind.NAMESPACES), ahead)
            return False
        known = self._parts.index.place(name).secrets or {}
        if any(s.sealed for s in known.values()) or await dependents.any_sealed(self._parts.kube, name):
            return False
        await self._label(name, None)
        await self._bind(name, {COUNTER_ROLE_BINDING} if modes else set(), bindings)
        del self._retained_since[name]
        log.info("namespace %s: no longer covered, nothing sealed is left", name)
        return True

    async def _label(self, name: str, value: Sealing | None) -> None:
        # In one write: whoever sees the label sees what is held, and what is not held is sealed.
        held = HELD_ALL if value is Sealing.ENABLED else None
        await self._write(name, {"labels": {LABEL_SEALING: value}, "annotations": {ANNOTATION_HELD: held}})
        log.info("namespace %s: label %s=%s", name, LABEL_SEALING, value or "removed")

    async def _write(self, name: str, metadata: Json) -> None:
        await self._parts.kube.patch(path("namespaces", name), {"metadata": metadata}, accept=METADATA_ONLY)

    async def _stamp(self, policy: Policy) -> None:
        """A KeyAuthorization that came before its RootKey gets the key ID now, once and for ever."""
        for authorization in policy.authorizations:
            key = policy.root_keys.get(authorization.root_key_name)
            if authorization.key_id is None and not authorization.deleting and key and key.key_id and not key.deleting:
                stamp = {"spec": {"rootKeyRef": {"keyID": str(key.key_id)}}}
                with contextlib.suppress(NotFound):  # it went meanwhile
                    await self._parts.kube.patch(own_path(KEY_AUTHORIZATIONS, authorization.name), stamp)

    # --- RoleBindings ---------------------------------------------------------------------------------------------

    async def _bindings(self) -> Bindings:
        listed = self._parts.kube.list_all(path("rolebindings", **_RBAC), selector=f"{LABEL_MANAGED_BY}={MANAGED_BY}")
        return {
            (o["metadata"]["namespace"], o["metadata"]["name"]): o
            async for o in listed
            if o["metadata"]["name"] in _ROLES
        }

    async def _bind(self, namespace: str, names: Set[str], bindings: Bindings) -> None:
        """These RoleBindings and no other of ours."""
        for name in _ROLES:
            there = bindings.get((namespace, name))
            if name not in names:
                if bindings.pop((namespace, name), None) is not None:
                    await self._parts.kube.delete(self._binding_path(namespace, name))
                continue
            wanted = self._binding(namespace, name)
            if there is not None and all(there.get(k) == wanted[k] for k in ("roleRef", "subjects")):
                continue
            if there is not None:
                await self._parts.kube.delete(self._binding_path(namespace, name))  # roleRef cannot be changed
            try:
                await self._parts.kube.create(self._binding_path(namespace), wanted)
            except Conflict:
                # One without our label, which the list therefore did not show: it is ours by its name.
                await self._parts.kube.delete(self._binding_path(namespace, name))
                await self._parts.kube.create(self._binding_path(namespace), wanted)
            bindings[namespace, name] = wanted

    def _binding(self, namespace: str, name: str) -> dict[str, Any]:
        role, account = _ROLES[name]
        return {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": namespace, "labels": {LABEL_MANAGED_BY: MANAGED_BY}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self._parts.settings.namespace}],
        }

    def _binding_path(self, namespace: str, name: str = "") -> str:
        return path("rolebindings", name, namespace=namespace, **_RBAC)
