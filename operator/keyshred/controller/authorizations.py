"""Statuses of KeyAuthorizations and the dependents of RootKeys, from one look at the metadata of all Secrets."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Final
from uuid import UUID

from keyshred.controller import dependents
from keyshred.controller import status as statuses
from keyshred.controller.namespaces import read_policy
from keyshred.controller.parts import Job, Kind, Parts
from keyshred.errors import NotFound
from keyshred.kube.client import own_path
from keyshred.names import KEY_AUTHORIZATIONS
from keyshred.policy import coverage
from keyshred.policy.lifecycle import Tally
from keyshred.policy.resources import Authorization
from keyshred.times import utc_now

_COUNT_AGAIN: Final = 3.0
"""Seconds after which what is not sealed is counted again."""
_COUNT_SHARE: Final = 0.1
"""Of the time, at most, that is spent on it."""


class Authorizations:
    """Counts, and writes down what was counted."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def count(self) -> None:
        """One pass over the Secrets of all sealing namespaces; the others are only looked at for their label."""
        started = asyncio.get_running_loop().time()
        policy, now = await read_policy(self._parts), utc_now()
        survey = coverage.Survey(policy, now)
        tallies = {key.key_id: Tally() for key in policy.root_keys.values() if key.key_id is not None}
        types = coverage.types_of_interest(policy.authorizations)
        for namespace, labels in policy.namespaces.items():
            survey.namespace(namespace, labels)
            if policy.sealing(namespace) is None:
                continue
            async for secret, envelope in dependents.secrets(self._parts.kube, namespace, types):
                survey.secret(namespace, secret, envelope)
                if envelope is not None and envelope.key_id in tallies:
                    tallies[envelope.key_id].add(namespace, envelope)
        await self._publish(survey)
        self._remember(tallies)
        if any(report.unsealed or report.unlabelled for report in survey.reports.values()):
            # Nobody watches Secrets, and somebody may be sealing them right now; and labels are on their way.
            took = asyncio.get_running_loop().time() - started
            self._parts.enqueue(Job(Kind.COUNT), max(_COUNT_AGAIN, took / _COUNT_SHARE))

    async def _publish(self, survey: coverage.Survey) -> None:
        async for obj in self._parts.kube.list_all(own_path(KEY_AUTHORIZATIONS)):
            authorization = Authorization.parse(obj)
            report = survey.of(authorization)
            status = (obj.get("status") or {}) | {"namespaces": report.namespaces, "secrets": report.sealed}
            shown = coverage.conditions(survey.policy, authorization, report, survey.now)
            with contextlib.suppress(NotFound):  # it went meanwhile
                await statuses.write(self._parts.kube, self._parts.events, KEY_AUTHORIZATIONS, obj, status, shown)

    def _remember(self, tallies: dict[UUID, Tally]) -> None:
        now, before = utc_now(), self._parts.dependents
        counted = {key_id: tally.result(now) for key_id, tally in tallies.items()}
        self._parts.dependents = counted
        for key_id, new in counted.items():
            old = before.get(key_id)
            if old is None or replace(old, observed_at=now) != new:
                self._parts.enqueue(Job(Kind.ROOT_KEYS), 0)
                return
