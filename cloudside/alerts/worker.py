"""`kyoten worker`: everything on a clock. Each chore is level-triggered; a failed run is tried again and told once.

What a chore does is its owner's (certificate lists: cloudside.pki); it comes in as a function.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from cloudside.alerts import incidents, silent
from cloudside.config import Config
from cloudside.errors import KyotenError
from cloudside.registry.database import Database

log = structlog.get_logger(__name__)

SILENCE_CHECK_S = 5.0
KIND_CHORE_FAILED = "chore-failed"


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do every ``every_s`` seconds; runs in a thread. It raises KyotenError when it cannot."""

    name: str
    every_s: float
    run: Callable[[datetime], None]


async def run(config: Config, stop: asyncio.Event, *, chores: Sequence[Chore] = ()) -> None:
    """Do all chores until ``stop``. Raises ConfigurationError when the registry is missing or of another version."""
    database = Database(config.registry_url, actor="worker")
    try:
        database.require_current()
        every = [silence_chore(database, config), *chores]
        await asyncio.gather(*(_repeat(chore, database, stop) for chore in every))
    finally:
        database.close()


def silence_chore(database: Database, config: Config) -> Chore:
    """Watch for sites that stopped reporting."""
    intervals = silent.Intervals(
        config.web.heartbeat_wired_s, config.web.heartbeat_mobile_s, config.alerts.silent_after_intervals
    )

    def check(now: datetime) -> None:
        with database.write() as session:
            silent.check(session, intervals, now)

    return Chore("silence", min(SILENCE_CHECK_S, intervals.wired_s), check)


async def _repeat(chore: Chore, database: Database, stop: asyncio.Event) -> None:
    while not stop.is_set():
        failure: str | None = None
        try:
            await asyncio.to_thread(chore.run, datetime.now(UTC))
        except KyotenError as error:
            failure = str(error)
            log.error("chore-failed", chore=chore.name, reason=error.key)
        except Exception as error:  # a bug in one chore must not end the others
            failure = type(error).__name__
            log.error("chore-crashed", chore=chore.name, exc_info=error)
        try:
            await asyncio.to_thread(_tell, database, chore, failure)
        except KyotenError as error:
            log.error("incident-not-recorded", chore=chore.name, reason=error.key)
        with suppress(TimeoutError):
            async with asyncio.timeout(chore.every_s):
                await stop.wait()


def _tell(database: Database, chore: Chore, failure: str | None) -> None:
    now = datetime.now(UTC)
    with database.read() as session:
        is_open = any(
            incident.subject == chore.name for incident in incidents.open_incidents(session, KIND_CHORE_FAILED)
        )
    if failure is not None and not is_open:
        with database.write() as session:
            incidents.open_incident(session, KIND_CHORE_FAILED, chore.name, {"reason": failure}, now)
    elif failure is None and is_open:
        with database.write() as session:
            incidents.close_incident(session, KIND_CHORE_FAILED, chore.name, now)
