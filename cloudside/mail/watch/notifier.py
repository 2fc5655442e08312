"""Incidents become notices, each once: on the second ways at once, by the queue when these are not there or fail.

Runs beside the other steps, so that a way that hangs delays none of them. What is taken and not told comes up again by
itself, also when this process ends meanwhile; receivers know a second telling by its id.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from cloudside.alerts import incidents, notices
from cloudside.alerts.notices import Stage
from cloudside.alerts.paths import PathError, Telling
from cloudside.alerts.telling import Teller
from cloudside.errors import KyotenError
from cloudside.mail.bounces import dsn
from cloudside.mail.message import one_line
from cloudside.mail.model import NewMessage
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch.ledger import DAILY_S, Facts, Ledger
from cloudside.registry.database import Database
from cloudside.registry.tables import Incident

log = structlog.get_logger(__name__)

WAY_FAILED = "alert-path-failed"
#: Seconds that an incident is ours to tell; then it is due again.
LEASE_S = 30.0
#: Incidents told at once; with more than this due, they are told as one.
AT_ONCE = 10
#: How many of them are taken with one pass then.
DIGEST_MAX = 1000
_REASON_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class QueueWay:
    """The mail queue as a way for notices."""

    queue: Queue
    staff: tuple[str, ...]
    voice: dsn.Voice
    wake: Callable[[], None]
    name: str = "queue"
    ends: bool = False

    async def tell(self, telling: Telling) -> None:
        """Queue it, once whatever happens. Raises PathError."""
        try:
            await self.queue.accept(composed(telling, self.staff, self.voice))
        except KyotenError as error:
            raise PathError(error.key) from None
        self.wake()


def composed(telling: Telling, staff: tuple[str, ...], voice: dsn.Voice) -> NewMessage:
    """A notice as a mail to staff."""
    return dsn.compose_notice(
        telling.notice.subject,
        telling.notice.body,
        staff=staff,
        voice=voice,
        now=telling.at.timestamp(),
        new_id=secrets.randbits(63),
        once=telling.id,
    )


@dataclass(slots=True)
class Notifier:
    """Tells what is due."""

    database: Database
    ledger: Ledger
    teller: Teller
    language: str
    _told_no_way: bool = False
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, now: datetime) -> None:
        """Take what is due and tell it, without waiting for the ways. Raises KyotenError."""
        if self.teller.mute:
            await self._complain(now)
            return
        if len(self._running) >= AT_ONCE or not await asyncio.to_thread(self._any_due, now):
            return
        taken = await asyncio.to_thread(self._take, now)
        groups = [taken] if len(taken) > AT_ONCE else [[one] for one in taken]
        for group in groups:
            task = asyncio.create_task(self._tell(group, now))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def watch_ways(self, now: datetime) -> None:
        """Report ways that do not work; the other ways tell it. Raises KyotenError."""
        wanted: dict[str, Facts] = {}
        for name, reason in self.teller.troubles.items():
            wanted[name] = _reason(one_line(reason, _REASON_MAX_CHARS))
        await self.ledger.settle(WAY_FAILED, wanted, now, remind_s=DAILY_S)

    async def finish(self) -> None:
        """Wait for what is being told."""
        if self._running:
            await asyncio.wait(self._running, timeout=2 * self.teller.patience_s)
        self.teller.close()

    async def _complain(self, now: datetime) -> None:
        if not self._told_no_way and await asyncio.to_thread(self._any_due, now):
            log.error("no-staff-configured")
            self._told_no_way = True

    async def _tell(self, group: Sequence[Incident], now: datetime) -> None:
        ends = [incident for incident in group if incident.closed_at is not None]
        begins = [incident for incident in group if incident.closed_at is None]
        for some in (begins, ends):
            if not some:
                continue
            telling = self._telling(some[0], now) if len(some) == 1 else self._digest(some, now)
            if await self.teller.tell(telling) is None:
                continue  # due again when the lease is over
            try:
                await asyncio.to_thread(self._mark, some, now)
            except KyotenError as error:
                log.error("notice-not-recorded", notice=telling.id, reason=error.key)

    def _telling(self, incident: Incident, now: datetime) -> Telling:
        times = int(incident.params.get("times", 1))
        stage = Stage.ENDED if incident.closed_at is not None else Stage.AGAIN if times > 1 else Stage.OPENED
        notice = notices.write(
            incident.kind, incident.subject, incident.params, incident.opened_at, language=self.language, stage=stage
        )
        return Telling(
            id=f"incident/{incident.id}/{incident.opened_at.isoformat()}/{stage if stage is Stage.ENDED else times}",
            kind=incident.kind,
            subject=incident.subject,
            stage=stage,
            notice=notice,
            opened_at=incident.opened_at,
            at=now,
            incident=incident.id,
            params={name: value for name, value in incident.params.items() if name != "commands"},
        )

    def _digest(self, group: Sequence[Incident], now: datetime) -> Telling:
        tellings = [self._telling(incident, now) for incident in group]
        return Telling(
            id=f"incidents/{tellings[0].id}/{tellings[-1].id}/{len(group)}",
            kind="several",
            subject="",
            stage=tellings[0].stage if len({telling.stage for telling in tellings}) == 1 else Stage.OPENED,
            notice=notices.digest([telling.notice.subject for telling in tellings], language=self.language),
            opened_at=group[0].opened_at,
            at=now,
            params={"incidents": [{"kind": one.kind, "subject": one.subject} for one in tellings]},
        )

    def _any_due(self, now: datetime) -> bool:
        with self.database.read() as session:
            return bool(incidents.due(session, now))

    def _take(self, now: datetime) -> list[Incident]:
        with self.database.write() as session:
            return incidents.take(session, now, for_s=LEASE_S, most=DIGEST_MAX)

    def _mark(self, group: Sequence[Incident], now: datetime) -> None:
        with self.database.write() as session:
            for incident in group:
                incidents.mark_notified(session, incident, now)


def _reason(reason: str) -> Facts:
    async def known() -> dict[str, str]:
        return {"reason": reason}

    return known
