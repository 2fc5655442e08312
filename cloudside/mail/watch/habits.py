"""Each site against its own habit: too much for it, or nothing where there should be something.

Habits are learnt from the queue's counts, so after a restart they are what they were; they are read site by site, some
with each pass. Silence is judged once an hour, when the hour's counts are whole.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import select

from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.origins import Snapshot
from cloudside.mail.model import Scope
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch import anomaly, facts, remedies
from cloudside.mail.watch.habit import Habit
from cloudside.mail.watch.ledger import DAILY_S, HOURLY_S, Facts, Ledger
from cloudside.mail.watch.limits import Limits
from cloudside.mail.watch.tally import Tally
from cloudside.registry.database import Database
from cloudside.registry.tables import MailProfile

UNUSUAL, SILENT, SILENT_MANY = "mail-unusual", "mail-silent", "mail-silent-many"
#: What a silence of many is about.
EVERYBODY = "mail"
#: How far back habits are learnt from, in hours.
LEARNT_HOURS = 12 * 168
#: Sites whose past is read with one pass, and hours of all sites taken in before others get their turn.
_READ_AT_ONCE = 5
_PROFILES_EVERY_S = 60.0
#: Recipients within two hours above twice what is expected, below which only the day's sum is still high.
FADED = 10


@dataclass(slots=True)
class Habits:
    """The step of the watch that knows what is normal."""

    queue: Queue
    database: Database
    directory: Directory
    tally: Tally
    ledger: Ledger
    limits: Limits
    _habits: dict[str, Habit] = field(default_factory=dict)
    #: Hours before this one are taken in.
    _upto: int = 0
    _together_until: int = 0
    _silent: set[str] = field(default_factory=set)
    #: Longest silence that somebody stated, in seconds, and when the last mail was.
    _stated: dict[str, int] = field(default_factory=dict)
    _last_mail: dict[str, float] = field(default_factory=dict)
    _next_profiles: float = 0.0

    async def run(self, now: datetime) -> None:
        """One look. Raises KyotenError."""
        snapshot, hour = self.directory.snapshot, self.tally.hour
        if not self._upto:
            self._upto = hour
        while self._upto < hour:
            await self._finish(self._upto)
            self._upto += 1
        await self._read_some(snapshot)
        await self._watch_unusual(snapshot, now)
        await self._watch_silence(snapshot, now)

    def known(self, origin: str) -> bool:
        """Whether enough is known of a site to call something unusual."""
        habit = self._habits.get(origin)
        return habit is not None and not habit.baseline.young

    async def _finish(self, hour: int) -> None:
        counts = await self.queue.counts(Scope.SITE, hour, hour + 1)
        for number, (origin, habit) in enumerate(self._habits.items()):
            if habit.baseline.hours or origin in counts:  # it begins with its first mail
                habit.finish(hour, counts.get(origin, 0))
            if number % 200 == 199:
                await asyncio.sleep(0)
        watched = [(origin, habit.baseline) for origin, habit in self._habits.items()]
        quiet = sum(anomaly.quiet(baseline) for _, baseline in watched)
        if anomaly.together(quiet, sum(anomaly.watched(baseline) for _, baseline in watched)):
            self._together_until = hour + 1 + anomaly.TOGETHER_AFTER_HOURS
        self._silent = {origin for origin, baseline in watched if anomaly.silent(baseline)}

    async def _read_some(self, snapshot: Snapshot) -> None:
        missing = [name for name, origin in snapshot.origins.items() if name not in self._habits and not origin.revoked]
        for gone in self._habits.keys() - snapshot.origins.keys():
            del self._habits[gone]
        if not missing:
            return
        names = missing[:_READ_AT_ONCE]
        hours = await self.queue.hours(Scope.SITE, names, self._upto - LEARNT_HOURS)
        for name in names:
            past = {hour: count for hour, count in hours.get(name, {}).items() if hour < self._upto}
            self._habits[name] = await asyncio.to_thread(learnt, past, self._upto)

    async def _watch_unusual(self, snapshot: Snapshot, now: datetime) -> None:
        flooding, wanted, fading = self.limits.floods(), dict[str, Facts](), set[str]()
        hour, counts = self.tally.hour, self.tally.hours[Scope.SITE]
        for origin, habit in self._habits.items():
            count = counts.get(origin, 0)
            found = habit.look(hour, count) if count or habit.standing is not None else None
            # Who exceeds a limit is told of already.
            if found is not None and (origin not in flooding or origin in self.ledger.standing(UNUSUAL)):
                devices = self.tally.days[Scope.DEVICE]
                wanted[origin] = partial(facts.of_unusual, origin, found, hour, devices, self.queue, snapshot)
                sent, expected = habit.baseline.pair(hour, count)
                if sent <= 2 * expected + FADED:
                    fading.add(origin)
        keep = self._unread(UNUSUAL)
        await self.ledger.settle(UNUSUAL, wanted, now, keep=keep, remind_s=HOURLY_S, fading=fading)

    async def _watch_silence(self, snapshot: Snapshot, now: datetime) -> None:
        at = now.timestamp()
        if at >= self._next_profiles:
            self._next_profiles = at + _PROFILES_EVERY_S
            self._stated = await asyncio.to_thread(self._read_stated)
            self._last_mail = await self.queue.last_mail()
        sending = self.tally.hours[Scope.SITE]
        stated = {
            origin for origin, longest in self._stated.items()
            if origin in snapshot.origins and at - self._last_mail.get(origin, at) > longest
        }  # fmt: skip
        learnt_silent = {origin for origin in self._silent if origin not in self._stated}
        together = self.tally.hour < self._together_until
        standing = self.ledger.standing(SILENT)
        silent = {origin for origin in learnt_silent if not together or origin in standing} | stated
        wanted: dict[str, Facts] = {
            origin: partial(self._silence, origin)
            for origin in silent
            if not sending.get(origin) and not snapshot.origins[origin].revoked
        }
        await self.ledger.settle(SILENT, wanted, now, keep=self._unread(SILENT), remind_s=DAILY_S)
        many: dict[str, Facts] = {EVERYBODY: self._silence_of_many} if together and learnt_silent - set(wanted) else {}
        await self.ledger.settle(SILENT_MANY, many, now, remind_s=DAILY_S)

    def _unread(self, kind: str) -> set[str]:
        """Whose incidents stand although their habits are not read yet."""
        return {origin for origin in self.ledger.standing(kind) if origin not in self._habits}

    async def _silence(self, origin: str) -> Mapping[str, Any]:
        last = self._last_mail.get(origin)
        habit = self._habits.get(origin)
        longest = self._stated.get(origin)
        if longest is None and habit is not None:
            longest = habit.baseline.record_gap * 3600
        return {
            "last": "-" if last is None else facts.shown_time(last),
            "longest_hours": round((longest or 0) / 3600, 1),
            "basis_key": "alerts.silence-stated" if origin in self._stated else "alerts.silence-learnt",
            "commands": remedies.of_silence(origin),
        }

    async def _silence_of_many(self) -> Mapping[str, Any]:
        names = sorted(self._silent)
        shown = ", ".join(names[:10]) + (" ..." if names[10:] else "")
        return {"count": len(names), "names": shown, "watched": len(self._habits), "commands": remedies.of_queue()}

    def _read_stated(self) -> dict[str, int]:
        query = select(MailProfile.site_id, MailProfile.silent_after_s).where(MailProfile.silent_after_s.is_not(None))
        with self.database.read() as session:
            return {row.site_id: row.silent_after_s for row in session.execute(query)}


def learnt(past: Mapping[int, int], upto: int) -> Habit:
    """The habit that these hours make, from the first that had mail until before ``upto``."""
    habit = Habit()
    for hour in range(min(past, default=upto), upto):
        habit.finish(hour, past.get(hour, 0))
    return habit
