"""Once a second: floods and troubles become incidents, incidents become notices, each once.

Level-triggered: each pass compares what is with what the registry says, so a lost pass costs a second. A notice is
queued under the incident's number (``once``), so that a crash between the queue and the registry repeats nothing.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from cloudside.alerts import incidents, notices
from cloudside.errors import KyotenError
from cloudside.mail.bounces import dsn
from cloudside.mail.delivery.delivery import UNREACHABLE_GRACE_S, Delivery, Trouble
from cloudside.mail.delivery.outcome import Verdict
from cloudside.mail.intake.directory import Directory
from cloudside.mail.message import joined, one_line
from cloudside.mail.model import Scope, Traffic
from cloudside.mail.store.queue import Queue, hour_of
from cloudside.registry.database import Database
from cloudside.registry.tables import Incident

log = structlog.get_logger(__name__)

FLOOD = "mail-flood"
TROUBLES: Mapping[Verdict, str] = {
    Verdict.QUOTA: "smarthost-quota",
    Verdict.REFUSED: "smarthost-refused",
    Verdict.UNREACHABLE: "smarthost-unreachable",
}
#: How long finished messages are remembered: late bounces come up to five days after (RFC 5321 4.5.4.1).
RETENTION_S = 14 * 86400.0
#: Counts are what is normal for a site.
COUNTS_S = 400 * 86400.0
_PURGE_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Flood:
    """An origin that sent more in a clock hour than it may without staff being told."""

    origin: str
    hour: int
    count: int
    limit: int


def floods(counts: Mapping[str, int], limits: Mapping[str, int], *, default_limit: int, hour: int) -> list[Flood]:
    """Origins over their limit, by name."""
    return [
        Flood(origin, hour, count, limits.get(origin, default_limit))
        for origin, count in sorted(counts.items())
        if count > limits.get(origin, default_limit)
    ]


def flood_over(opened_hour: int, hour: int, last_hour_count: int, limit: int) -> bool:
    """Whether a full clock hour after the one of the alarm stayed within the limit."""
    return hour - 1 > opened_hour and last_hour_count <= limit


@dataclass(slots=True)
class Watch:
    """The relay's eye on itself."""

    database: Database
    directory: Directory
    queue: Queue
    delivery: Delivery
    smarthost: str
    default_limit: int
    staff: tuple[str, ...]
    voice: dsn.Voice
    _known_floods: set[str] = field(default_factory=set)
    _next_purge: float = 0.0
    _told_no_staff: bool = False

    async def run(self, stop: asyncio.Event, now: Callable[[], datetime], *, every_s: float = 1.0) -> None:
        """Pass after pass until ``stop``. A pass that fails is logged and the next one tries again."""
        while not stop.is_set():
            await self._attempt(self._purge, now())
            # Without a registry the other steps can do nothing, and connecting would create an empty one.
            if await self._attempt(self._refresh, now()):
                for step in (self._watch_floods, self._watch_smarthost, self._notify):
                    await self._attempt(step, now())
            try:
                async with asyncio.timeout(every_s):
                    await stop.wait()
            except TimeoutError:
                pass

    async def _attempt(self, step: Callable[[datetime], Awaitable[None]], now: datetime) -> bool:
        name = getattr(step, "__name__", "")
        try:
            await step(now)
        except KyotenError as error:
            log.error("watch-step-failed", step=name, reason=error.key)
        except Exception as error:  # a bug in one step must not blind the others
            log.error("watch-step-crashed", step=name, exc_info=error)
        else:
            return True
        return False

    async def _refresh(self, now: datetime) -> None:
        await asyncio.to_thread(self.directory.refresh)

    async def _watch_floods(self, now: datetime) -> None:
        hour = hour_of(now.timestamp())
        limits = {name: origin.limit for name, origin in self.directory.snapshot.origins.items() if origin.limit}
        counts = await self.queue.counts(Scope.SITE, hour, hour + 1)
        for flood in floods(counts, limits, default_limit=self.default_limit, hour=hour):
            if flood.origin not in self._known_floods:
                traffic = await self.queue.traffic(Scope.SITE, flood.origin, hour * 3600.0)
                new = await asyncio.to_thread(self._open, FLOOD, flood.origin, _flood_params(flood, traffic), now)
                self._known_floods.add(flood.origin)
                log.warning("mail-flood", origin=flood.origin, count=flood.count, limit=flood.limit, new=new)
        earlier = await self.queue.counts(Scope.SITE, hour - 1, hour)
        for incident in await asyncio.to_thread(self._open_ones, FLOOD):
            origin = incident.subject
            limit = limits.get(origin, self.default_limit)
            if flood_over(int(incident.params.get("hour", 0)), hour, earlier.get(origin, 0), limit):
                await asyncio.to_thread(self._close, FLOOD, origin, now)
                self._known_floods.discard(origin)

    async def _watch_smarthost(self, now: datetime) -> None:
        if not self.delivery.tried:
            return
        trouble = self.delivery.trouble
        kind = None if trouble is None else TROUBLES.get(trouble.verdict)
        if trouble is not None and kind is not None and _lasting(trouble, now):
            params = {"reply": trouble.reply, "waiting": "kyoten mail queue"}
            if await asyncio.to_thread(self._open, kind, self.smarthost, params, now):
                log.error("smarthost-trouble", kind=kind, reply=trouble.reply)
        for other in TROUBLES.values():
            if other != kind and (trouble is None or _lasting(trouble, now)):
                await asyncio.to_thread(self._close, other, self.smarthost, now)

    async def _notify(self, now: datetime) -> None:
        for incident in await asyncio.to_thread(self._unnotified):
            if not self.staff:
                if not self._told_no_staff:
                    log.error("no-staff-configured", incident=incident.id, kind=incident.kind, subject=incident.subject)
                    self._told_no_staff = True
                return
            notice = notices.write(
                incident.kind, incident.subject, incident.params, incident.opened_at, language=self.voice.language
            )
            message = dsn.compose_notice(
                notice.subject,
                notice.body,
                staff=self.staff,
                voice=self.voice,
                now=now.timestamp(),
                new_id=secrets.randbits(63),
                once=f"incident/{incident.id}/{incident.opened_at.isoformat()}",
            )
            await self.queue.accept(message)
            self.delivery.wake()
            await asyncio.to_thread(self._mark_notified, incident.id, now)
            log.info("notice-queued", incident=incident.id, kind=incident.kind, subject=incident.subject)

    async def _purge(self, now: datetime) -> None:
        if now.timestamp() >= self._next_purge:
            self._next_purge = now.timestamp() + _PURGE_EVERY_S
            await self.queue.purge(now.timestamp() - RETENTION_S, now.timestamp() - COUNTS_S)

    def _open(self, kind: str, subject: str, params: Mapping[str, object], now: datetime) -> bool:
        if any(incident.subject == subject for incident in self._open_ones(kind)):
            return False
        with self.database.write() as session:
            return incidents.open_incident(session, kind, subject, params, now)

    def _close(self, kind: str, subject: str, now: datetime) -> None:
        if any(incident.subject == subject for incident in self._open_ones(kind)):
            with self.database.write() as session:
                incidents.close_incident(session, kind, subject, now)

    def _open_ones(self, kind: str) -> list[Incident]:
        with self.database.read() as session:
            return incidents.open_incidents(session, kind)

    def _unnotified(self) -> list[Incident]:
        with self.database.read() as session:
            return incidents.unnotified(session)

    def _mark_notified(self, incident_id: int, now: datetime) -> None:
        with self.database.write() as session:
            incidents.mark_notified(session, incident_id, now)


def _lasting(trouble: Trouble, now: datetime) -> bool:
    grace_s = UNREACHABLE_GRACE_S if trouble.verdict is Verdict.UNREACHABLE else 0.0
    return now.timestamp() - trouble.since >= grace_s


def _flood_params(flood: Flood, traffic: Traffic) -> dict[str, str | int]:
    start = datetime.fromtimestamp(flood.hour * 3600, UTC)
    return {
        "hour": flood.hour,
        "window": f"{start:%Y-%m-%d %H:%M}-{datetime.fromtimestamp(flood.hour * 3600 + 3600, UTC):%H:%M} UTC",
        "count": flood.count,
        "limit": flood.limit,
        "recipients": joined(traffic.recipients),
        "sources": joined(traffic.sources),
        "subjects": " / ".join(one_line(subject, 80) or "-" for subject in traffic.subjects),
    }
