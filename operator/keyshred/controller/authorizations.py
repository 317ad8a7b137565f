"""Statuses of KeyAuthorizations, the dependents of RootKeys and the plan of the sweep, from one look at the index."""

import asyncio
import logging
from dataclasses import replace
from typing import Final
from uuid import UUID

from keyshred import names
from keyshred.controller import status as statuses
from keyshred.controller.namespaces import read_policy
from keyshred.controller.parts import COUNT_SOON, Job, Kind, Parts
from keyshred.controller.sweep import Sweeper
from keyshred.errors import KeyshredError, NotFound
from keyshred.kube.client import Json, own_path
from keyshred.names import KEY_AUTHORIZATIONS, Reason, Sealing
from keyshred.policy import coverage, progress
from keyshred.policy.authorizations import Policy
from keyshred.policy.conditions import Condition, Status
from keyshred.policy.lifecycle import Tally
from keyshred.policy.resources import Authorization
from keyshred.times import utc_now

log = logging.getLogger(__name__)

_COUNT_AGAIN: Final = 3.0
"""Seconds after which all is counted again while labels, first lists or the sweep are on their way."""
_COUNT_SHARE: Final = 0.1
"""Of the time, at most, that is spent on it."""
_AT_A_TIME: Final = 500
"""Secrets that are looked at before others may run: the Lease has to be renewed, and keys destroyed."""

_Tallies = dict[UUID, Tally]


class Authorizations:
    """Counts, writes down what was counted, and hands the sweep what is to be done."""

    def __init__(self, parts: Parts, sweeper: Sweeper) -> None:
        self._parts = parts
        self._sweeper = sweeper
        self._decided_by: tuple[object, object] | None = None

    async def count(self) -> None:
        """One pass over what is known of the Secrets; it asks the API server for none."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        policy = await read_policy(self._parts)
        authorizations = [replace(a, last_unseal=None) for a in policy.authorizations]
        if self._decided_by != (decided_by := (authorizations, policy.root_keys)):
            self._decided_by = decided_by
            self._sweeper.forget_refusals()
        survey, tallies = await self._survey(policy)
        self._sweeper.plan(survey.tasks)
        self._parts.inventory.surveyed(survey.reports.values(), len(survey.tasks))
        if tallies is not None:
            self._remember(policy, tallies)
        self._parts.count_pause = max(COUNT_SOON, (loop.time() - started) / _COUNT_SHARE)
        if survey.tasks or any(r.unlabelled or r.unknown for r in survey.reports.values()):
            self._parts.enqueue(Job(Kind.COUNT), max(_COUNT_AGAIN, self._parts.count_pause))
        await self._publish(survey)

    async def _survey(self, policy: Policy) -> tuple[coverage.Survey, _Tallies | None]:
        """The survey, and what depends on each key; None: not all that is sealed is known yet."""
        survey = coverage.Survey(policy, utc_now(), self._sweeper.refusals)
        tallies = {key.key_id: Tally() for key in policy.root_keys.values() if key.key_id is not None}
        complete = True
        for namespace, labels in policy.namespaces.items():
            place = self._parts.index.place(namespace)
            site = survey.enter(namespace, labels, place)
            label = policy.sealing(namespace)
            if place.secrets is None:
                complete = complete and label is None
                continue
            any_sealed = False
            for number, (name, found) in enumerate(list(place.secrets.items()), 1):
                site.secret(name, found)
                if found.sealed is not None:
                    any_sealed = True
                    if label is not None and found.sealed.key_id in tallies:
                        tallies[found.sealed.key_id].add(namespace, found.sealed)
                if number % _AT_A_TIME == 0:
                    await asyncio.sleep(0)
            if label is Sealing.RETAINED and not any_sealed:
                self._parts.enqueue(Job(Kind.NAMESPACES), 0)  # its label may go
        return survey, tallies if complete else None

    async def _publish(self, survey: coverage.Survey) -> None:
        """Writes every status. What fails at one does not keep the others; raises the last that failed."""
        existing, failed = [], None
        async for obj in self._parts.kube.list_all(own_path(KEY_AUTHORIZATIONS)):
            existing.append(obj["metadata"]["name"])
            try:
                await self._show(obj, survey)
            except NotFound:
                pass  # it went meanwhile
            except KeyshredError as error:
                log.warning("KeyAuthorization %s: %s", obj["metadata"]["name"], error)
                failed = error
        self._parts.inventory.left(KEY_AUTHORIZATIONS, existing)
        if failed is not None:
            raise failed

    async def _show(self, obj: Json, survey: coverage.Survey) -> None:
        authorization = Authorization.parse(obj)
        report = survey.report(authorization)
        status = (obj.get("status") or {}) | progress.status(report)
        shown = progress.conditions(survey.policy, authorization, report, survey.now, self._sweeper.trouble)
        await statuses.write(self._parts, KEY_AUTHORIZATIONS, obj, status, shown)
        await self._announce(obj, next(c for c in shown if c.type is names.Condition.SEALING), report)

    async def _announce(self, obj: Json, now: Condition, report: coverage.Report) -> None:
        """Events where a sweep begins, and where it has come to its end."""
        conditions = (obj.get("status") or {}).get("conditions") or ()
        before = next((c["status"] for c in conditions if c["type"] == names.Condition.SEALING), Status.UNKNOWN)
        if before == now.status:
            return
        if now.status is Status.TRUE:
            await self._parts.events.post(obj, Reason.SWEEP_STARTED, now.message)
        elif before == Status.TRUE and now.reason is Reason.ALL_SEALED:
            await self._parts.events.post(obj, Reason.ALL_SEALED, f"all {report.sealed} Secrets are sealed")

    def _remember(self, policy: Policy, tallies: _Tallies) -> None:
        """Has those RootKeys looked at whose dependents are others than before."""
        now, before = utc_now(), self._parts.dependents
        self._parts.dependents = {key_id: tally.result(now) for key_id, tally in tallies.items()}
        for name, key in policy.root_keys.items():
            if key.key_id is None:
                continue
            old, new = before.get(key.key_id), self._parts.dependents[key.key_id]
            if old is None or replace(old, observed_at=now) != new:
                self._parts.enqueue(Job(Kind.ROOT_KEY, name), 0)
