"""The incidents of the registry as the watch sees them: what stands, and what is opened, told again, closed.

Read anew with each pass. Writes happen only when something changes: every one is in the audit log. Where several relays
share a registry, what only one of them can see is its own: another one that does not see it must not end it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from cloudside.alerts import incidents
from cloudside.registry.database import Database

log = structlog.get_logger(__name__)

#: What lasts is told again after so many seconds: floods and what stops all mail hourly, the rest once a day.
HOURLY_S, DAILY_S = 3600.0, 86400.0
#: What another relay has opened is ended here when nobody was told of it for so long: that relay may be gone.
ORPHANED_S = 2 * DAILY_S

Params = Mapping[str, Any]
#: Asked for only when something is to be told: it may cost queries.
Facts = Callable[[], Awaitable[Params]]


@dataclass(frozen=True, slots=True)
class Standing:
    """An open incident."""

    subject: str
    params: Params
    opened_at: datetime
    notified_at: datetime | None
    acknowledged: bool

    @property
    def relay(self) -> str | None:
        """The relay whose it is; None: everybody's."""
        return self.params.get("relay")


class Ledger:
    """What stands, by kind and subject. ``relay``: our name."""

    def __init__(self, database: Database, relay: str) -> None:
        self._database = database
        self._relay = relay
        self._standing: dict[str, dict[str, Standing]] = {}

    async def refresh(self) -> None:
        """Read what stands. Raises KyotenError."""
        self._standing = await asyncio.to_thread(self._read)

    def standing(self, kind: str) -> Mapping[str, Standing]:
        """Open incidents of a kind by subject."""
        return self._standing.get(kind, {})

    async def settle(
        self,
        kind: str,
        wanted: Mapping[str, Facts],
        now: datetime,
        *,
        keep: Collection[str] = (),
        remind_s: float = DAILY_S,
        fading: Collection[str] = (),
        shared: bool = False,
    ) -> None:
        """Have exactly the ``wanted`` ones stand, and those of ``keep`` if they stand; tell again what lasts.

        Nobody is reminded of what somebody acknowledged, nor of what is ``fading``. ``shared``: every relay sees the
        same, so each may end it. Raises KyotenError.
        """
        standing = dict(self.standing(kind))
        own = {} if shared else {"relay": self._relay}
        for subject, facts in wanted.items():
            known = standing.get(subject)
            if known is None:
                await self.open(kind, subject, {**await facts(), **own}, now)
            elif subject not in fading and self._ours(known) and _due(known, now, remind_s):
                await self.again(kind, known, {**await facts(), **own}, now)
        for subject in standing.keys() - wanted.keys() - set(keep):
            if self._ours(standing[subject]) or _orphaned(standing[subject], now):
                await self.close(kind, subject, now)

    def _ours(self, known: Standing) -> bool:
        return known.relay in (None, self._relay)

    async def open(self, kind: str, subject: str, params: Params, now: datetime) -> None:
        """Open one. Raises KyotenError."""
        new = await asyncio.to_thread(self._open, kind, subject, params, now)
        self._standing.setdefault(kind, {})[subject] = Standing(subject, params, now, None, acknowledged=False)
        if new:
            log.warning("incident-opened", kind=kind, subject=subject)

    async def again(self, kind: str, known: Standing, params: Params, now: datetime) -> None:
        """Tell it again. Raises KyotenError."""
        told = {**params, "times": int(known.params.get("times", 1)) + 1}
        await asyncio.to_thread(self._again, kind, known.subject, told, now)
        standing = Standing(known.subject, told, known.opened_at, now, known.acknowledged)
        self._standing.setdefault(kind, {})[known.subject] = standing

    async def close(self, kind: str, subject: str, now: datetime) -> None:
        """It ended. Raises KyotenError."""
        if subject in self._standing.get(kind, {}):
            await asyncio.to_thread(self._close, kind, subject, now)
            del self._standing[kind][subject]
            log.info("incident-closed", kind=kind, subject=subject)

    def _read(self) -> dict[str, dict[str, Standing]]:
        found: dict[str, dict[str, Standing]] = {}
        with self._database.read() as session:
            for row in incidents.open_incidents(session):
                found.setdefault(row.kind, {})[row.subject] = Standing(
                    row.subject, row.params, row.opened_at, row.notified_at, row.acknowledged_by is not None
                )
        return found

    def _open(self, kind: str, subject: str, params: Params, now: datetime) -> bool:
        with self._database.write() as session:
            return incidents.open_incident(session, kind, subject, params, now)

    def _again(self, kind: str, subject: str, params: Params, now: datetime) -> None:
        with self._database.write() as session:
            incidents.tell_again(session, kind, subject, params, now)

    def _close(self, kind: str, subject: str, now: datetime) -> None:
        with self._database.write() as session:
            incidents.close_incident(session, kind, subject, now)


def _due(known: Standing, now: datetime, remind_s: float) -> bool:
    told = known.notified_at
    return told is not None and not known.acknowledged and (now - told).total_seconds() >= remind_s


def _orphaned(known: Standing, now: datetime) -> bool:
    return (now - (known.notified_at or known.opened_at)).total_seconds() >= ORPHANED_S
