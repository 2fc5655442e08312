"""Once a second: what the relay sees of itself and its clients becomes incidents, and incidents become notices.

Level-triggered: each pass compares what is with what the registry says, so a lost pass costs a second. Each matter is a
step of its own, in a module of its own; a step that fails is logged, and the others go on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from cloudside.alerts import paths
from cloudside.alerts.telling import Teller
from cloudside.config import Config
from cloudside.errors import KyotenError
from cloudside.mail.bounces import dsn
from cloudside.mail.delivery.delivery import Delivery
from cloudside.mail.intake.directory import Directory
from cloudside.mail.store.queue import Queue, hour_of
from cloudside.mail.watch.door import Door
from cloudside.mail.watch.habits import Habits
from cloudside.mail.watch.holds import Holds
from cloudside.mail.watch.inspection import Inspection
from cloudside.mail.watch.ledger import Ledger
from cloudside.mail.watch.limits import FLOOD, Limits
from cloudside.mail.watch.notifier import Notifier, QueueWay, composed
from cloudside.mail.watch.parked import Parked
from cloudside.mail.watch.sightings import Sightings
from cloudside.mail.watch.smarthost import TROUBLES, SmarthostWatch
from cloudside.mail.watch.tally import Tally
from cloudside.mail.watch.upkeep import Retention, Upkeep
from cloudside.registry.database import Database

__all__ = ["FLOOD", "TROUBLES", "Watch", "watch_of"]

log = structlog.get_logger(__name__)

EVERY_S = 1.0
#: Suppressions that are over are forgotten so often.
_PRUNE_EVERY_S = 600.0

Step = Callable[[datetime], Awaitable[None]]


@dataclass(slots=True)
class Watch:
    """The relay's eye on itself. Made by ``watch_of``."""

    directory: Directory
    tally: Tally
    ledger: Ledger
    limits: Limits
    habits: Habits
    inspection: Inspection
    door: Door
    smarthost: SmarthostWatch
    parked: Parked
    upkeep: Upkeep
    holds: Holds
    notifier: Notifier
    _next_prune: float = 0.0

    async def run(self, stop: asyncio.Event, now: Callable[[], datetime], *, every_s: float = EVERY_S) -> None:
        """Pass after pass until ``stop``. What fails in one is tried again in the next."""
        while not stop.is_set():
            await self.look(now)
            try:
                async with asyncio.timeout(every_s):
                    await stop.wait()
            except TimeoutError:
                pass
        await self.notifier.finish()

    async def look(self, now: Callable[[], datetime]) -> None:
        """One pass."""
        await self._attempt(self.upkeep.purge, now())
        # Without a registry the others can do nothing, and connecting would create an empty one.
        if not await self._attempt(self._refresh, now()):
            return
        if await self._attempt(self._count, now()):
            # Notices right after what is most urgent; again at the end for what the rest found.
            for step in (self.limits.run, self.notifier.run, self.habits.run, self.inspection.run):
                await self._attempt(step, now())
        steps = (
            self.holds.run,
            self.door.run,
            self.smarthost.run,
            self.parked.run,
            self.upkeep.run,
            self._prune,
            self.notifier.watch_ways,
        )
        for step in steps:
            await self._attempt(step, now())
        await self._attempt(self.notifier.run, now())

    async def _attempt(self, step: Step, now: datetime) -> bool:
        name = getattr(step, "__qualname__", "")
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
        await self.ledger.refresh()

    async def _count(self, now: datetime) -> None:
        await self.tally.read(hour_of(now.timestamp()))

    async def _prune(self, now: datetime) -> None:
        if now.timestamp() >= self._next_prune:
            self._next_prune = now.timestamp() + _PRUNE_EVERY_S
            await self.upkeep.prune(now)


def watch_of(
    config: Config,
    *,
    database: Database,
    directory: Directory,
    queue: Queue,
    delivery: Delivery,
    sightings: Sightings,
    voice: dsn.Voice,
) -> Watch:
    """The watch of a relay."""
    relay, alerts = config.relay, config.alerts
    tally, ledger = Tally(queue), Ledger(database, relay.name)
    limits = Limits(queue, directory, tally, ledger, sightings)
    habits = Habits(queue, database, directory, tally, ledger, limits)

    def whole(telling: paths.Telling) -> bytes:
        mail = composed(telling, alerts.staff, voice)
        body = mail.body if isinstance(mail.body, bytes) else mail.body.path.read_bytes()
        return mail.head + b"\r\n" + body

    last = QueueWay(queue, alerts.staff, voice, delivery.wake) if alerts.staff else None
    teller = Teller(paths.ways(alerts, whole), last)
    return Watch(
        directory=directory,
        tally=tally,
        ledger=ledger,
        limits=limits,
        habits=habits,
        inspection=Inspection(queue, database, directory, tally, ledger, habits),
        door=Door(sightings, directory, ledger),
        smarthost=SmarthostWatch(delivery, ledger, relay.smarthost),
        parked=Parked(queue, ledger),
        upkeep=Upkeep(queue, database, Retention(relay.retention_days, relay.counts_days, relay.suppression_days)),
        holds=Holds(queue, directory, delivery),
        notifier=Notifier(database, ledger, teller, voice.language),
    )
