"""Where a site's mail goes to, where it comes from, and what comes back: some sites with each pass, in turns.

A domain is new to a site until a day after its mail first went there; that is kept in the registry, because the queue
forgets. Domains of an alarm do not become known by it, unless somebody acknowledged it.
"""

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import delete, select

from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.origins import Snapshot
from cloudside.mail.model import Scope
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch import anomaly, facts
from cloudside.mail.watch.anomaly import Bounces
from cloudside.mail.watch.habits import Habits
from cloudside.mail.watch.ledger import DAILY_S, HOURLY_S, Facts, Ledger
from cloudside.mail.watch.tally import Tally
from cloudside.registry.database import Database
from cloudside.registry.tables import MailDomain
from cloudside.registry.upserts import upsert

NEW_DOMAINS, FOREIGN_SOURCE, BOUNCES = "mail-new-domains", "mail-foreign-source", "mail-bounces"
#: Sites that are looked at with one pass.
AT_ONCE = 20
DAY_S = 86400.0
#: Mail of this very moment counts, also by another relay's clock.
_AHEAD_S = 60.0
#: A source that a site's mail came from within this time before the last day is not foreign any more.
SOURCES_S = 13 * DAY_S
#: Domains that are remembered of one site; more are remembered of none.
DOMAINS_MAX = 500
#: What an address of ours may be suppressed for, and a report about it, count as bounced.
_FAILED, _FINISHED = ("bounced", "expired"), ("bounced", "expired", "delivered", "complained")


@dataclass(slots=True)
class _Known:
    """Domains of one site, and since when, in seconds since the epoch."""

    since: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Inspection:
    """The step of the watch that looks at addresses."""

    queue: Queue
    database: Database
    directory: Directory
    tally: Tally
    ledger: Ledger
    habits: Habits
    _turns: deque[str] = field(default_factory=deque)
    _domains: dict[str, _Known] = field(default_factory=dict)
    #: Whose turn came already since the start: before that what stands is left alone.
    _seen: set[str] = field(default_factory=set)
    _new: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _foreign: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _bounces: dict[str, Bounces] = field(default_factory=dict)

    async def run(self, now: datetime) -> None:
        """One look at the next sites. Raises KyotenError."""
        snapshot, at = self.directory.snapshot, now.timestamp()
        if not self._turns:
            # Those that stand too: a site that sends no more has to end its incidents.
            everybody = {*self.tally.days[Scope.SITE], *self._new, *self._foreign, *self._bounces}
            everybody |= {
                subject for kind in (NEW_DOMAINS, FOREIGN_SOURCE, BOUNCES) for subject in self._standing(kind)
            }
            self._turns.extend(sorted(everybody))
        for _ in range(min(AT_ONCE, len(self._turns))):
            await self._look(self._turns.popleft(), snapshot, at)
        since = at - DAY_S
        await self._settle(NEW_DOMAINS, self._new, snapshot, since, now, HOURLY_S)
        await self._settle(FOREIGN_SOURCE, self._foreign, snapshot, since, now, DAILY_S)
        wanted: dict[str, Facts] = {
            origin: partial(self._bounce_facts, origin, bounces, snapshot, since)
            for origin, bounces in self._bounces.items()
        }
        await self.ledger.settle(BOUNCES, wanted, now, keep=self._unseen(BOUNCES), remind_s=DAILY_S)

    def _standing(self, kind: str) -> Collection[str]:
        return self.ledger.standing(kind)

    def _unseen(self, kind: str) -> set[str]:
        return {origin for origin in self._standing(kind) if origin not in self._seen}

    async def _settle(
        self,
        kind: str,
        found: dict[str, tuple[str, ...]],
        snapshot: Snapshot,
        since: float,
        now: datetime,
        every: float,
    ) -> None:
        devices = self.tally.days[Scope.DEVICE]
        wanted: dict[str, Facts] = {
            origin: partial(facts.of_origin, origin, devices, self.queue, snapshot, since, names)
            for origin, names in found.items()
        }
        await self.ledger.settle(kind, wanted, now, keep=self._unseen(kind), remind_s=every)

    async def _look(self, origin: str, snapshot: Snapshot, at: float) -> None:
        _keep(self._new, origin, await self._new_domains(origin, at))
        _keep(self._foreign, origin, await self._foreign_sources(origin, snapshot, at))
        outcomes = await self.queue.outcomes(origin, at - DAY_S)
        bounces = Bounces(
            sum(outcomes.get(state, 0) for state in _FAILED), sum(outcomes.get(state, 0) for state in _FINISHED)
        )
        if anomaly.too_many_bounces(bounces, already=origin in self._standing(BOUNCES)):
            self._bounces[origin] = bounces
        else:
            self._bounces.pop(origin, None)
        self._seen.add(origin)

    async def _new_domains(self, origin: str, at: float) -> tuple[str, ...]:
        known = self._domains.get(origin)
        if known is None:
            known = self._domains[origin] = _Known(await asyncio.to_thread(self._read, origin))
        sent = await self.queue.domains(origin, at - DAY_S, at + _AHEAD_S)
        incident = self.ledger.standing(NEW_DOMAINS).get(origin)
        if not self.habits.known(origin) or (incident is not None and incident.acknowledged):
            # Too young to be surprised, or somebody knows about it: known at once, as of long ago.
            await self._learn(origin, known, [domain for domain in sent if _new(known, domain, at)], 0.0)
            return ()
        found = anomaly.new_domains(sent, {domain for domain in sent if not _new(known, domain, at)})
        if found:
            await self._forget(origin, known, found)
        else:
            await self._learn(origin, known, [domain for domain in sent if domain not in known.since], at)
        return found

    async def _foreign_sources(self, origin: str, snapshot: Snapshot, at: float) -> tuple[str, ...]:
        elsewhere = []
        for source in await self.queue.sources(origin, at - DAY_S, at + _AHEAD_S):
            owner = snapshot.find(source)
            if owner is None or owner.name != origin:
                elsewhere.append(source)
        if not elsewhere or origin not in snapshot.origins:
            return ()
        before = await self.queue.sources(origin, at - DAY_S - SOURCES_S, at - DAY_S)
        return tuple(sorted(source for source in elsewhere if source not in before))

    async def _bounce_facts(self, origin: str, bounces: Bounces, snapshot: Snapshot, since: float) -> dict[str, Any]:
        told = await facts.of_origin(origin, self.tally.days[Scope.DEVICE], self.queue, snapshot, since, ())
        return {**told, "count": bounces.bounced, "finished": bounces.finished, "percent": round(100 * bounces.share)}

    async def _learn(self, origin: str, known: _Known, domains: list[str], since: float) -> None:
        room = DOMAINS_MAX - len(known.since)
        new = {domain: since for domain in domains if len(domain) <= 253}
        if new and (room > 0 or not new.keys() - known.since.keys()):
            await asyncio.to_thread(self._write, origin, new)
            known.since.update(new)

    async def _forget(self, origin: str, known: _Known, domains: Collection[str]) -> None:
        gone = [domain for domain in domains if domain in known.since]
        if gone:
            await asyncio.to_thread(self._delete, origin, gone)
            for domain in gone:
                del known.since[domain]

    def _read(self, origin: str) -> dict[str, float]:
        query = select(MailDomain.domain, MailDomain.first_seen).where(MailDomain.origin == origin)
        with self.database.read() as session:
            return {row.domain: row.first_seen.timestamp() for row in session.execute(query)}

    def _write(self, origin: str, new: dict[str, float]) -> None:
        rows = [
            {"origin": origin, "domain": domain, "first_seen": datetime.fromtimestamp(since, UTC)}
            for domain, since in new.items()
        ]
        with self.database.record() as session:
            upsert(session, MailDomain, rows, replaced=("first_seen",))

    def _delete(self, origin: str, domains: list[str]) -> None:
        gone = delete(MailDomain).where(MailDomain.origin == origin, MailDomain.domain.in_(domains))
        with self.database.record() as session:
            session.execute(gone)


def _new(known: _Known, domain: str, at: float) -> bool:
    return at - known.since.get(domain, at) < DAY_S


def _keep(found: dict[str, tuple[str, ...]], origin: str, names: tuple[str, ...]) -> None:
    if names:
        found[origin] = names
    else:
        found.pop(origin, None)
