"""What the relay does on a clock: addresses to be suppressed go into the registry, what is old is forgotten."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from cloudside.errors import InputError
from cloudside.mail.model import Suppressing, shown_id
from cloudside.mail.store.queue import Queue
from cloudside.registry import suppressions
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

log = structlog.get_logger(__name__)

_EVERY_S = 3600.0
#: Addresses taken over in one transaction.
_AT_ONCE = 200
_AUTHOR = "relay"


@dataclass(frozen=True, slots=True)
class Retention:
    """Days that finished mail, counts, and suppressions after a bounce are kept."""

    mail_days: int = 14
    counts_days: int = 400
    suppression_days: int = 30


@dataclass(slots=True)
class Upkeep:
    """The step of the watch that keeps house."""

    queue: Queue
    database: Database
    retention: Retention
    _next_purge: float = 0.0

    async def run(self, now: datetime) -> None:
        """Take over suppressions. Raises KyotenError; what was not taken over comes again."""
        waiting = (await self.queue.suppressing())[:_AT_ONCE]
        if waiting:
            await asyncio.to_thread(self._suppress, waiting, now)
            await self.queue.suppressed([one.id for one in waiting])

    async def purge(self, now: datetime) -> None:
        """Once an hour, forget what is old. Raises KyotenError."""
        at = now.timestamp()
        if at < self._next_purge:
            return
        self._next_purge = at + _EVERY_S
        forgotten = await self.queue.purge(
            at - self.retention.mail_days * 86400.0, at - self.retention.counts_days * 86400.0
        )
        if forgotten:
            log.info("mail-forgotten", messages=forgotten)

    async def prune(self, now: datetime) -> None:
        """Forget suppressions that are over. Raises KyotenError."""
        await asyncio.to_thread(self._prune, now)

    def _suppress(self, waiting: Sequence[Suppressing], now: datetime) -> None:
        with self.database.write() as session:
            for one in waiting:
                # A complaint lasts until somebody takes it away.
                lasts = timedelta(days=self.retention.suppression_days)
                expires_at = None if one.cause == "complaint" else datetime.fromtimestamp(one.at, UTC) + lasts
                if expires_at is not None and expires_at <= now:
                    continue
                try:
                    suppressions.add(
                        session,
                        OPERATOR,
                        tenant_id=one.tenant,
                        address=one.address,
                        cause=one.cause,
                        reason=one.reason,
                        author=_AUTHOR,
                        now=now,
                        expires_at=expires_at,
                        message=shown_id(one.message),
                    )
                except InputError as error:  # a tenant that is gone: nobody's list
                    log.warning("not-suppressed", message=shown_id(one.message), reason=error.key)

    def _prune(self, now: datetime) -> None:
        with self.database.write() as session:
            suppressions.prune(session, OPERATOR, now=now)
