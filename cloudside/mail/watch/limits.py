"""Limits that are nearly or wholly used up become incidents, and end when a full hour stayed within.

One incident for each (window, level) and whose it is. Near and exceeded are two states of one matter: what is exceeded
is not also near.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.origins import Snapshot
from cloudside.mail.model import Limit, Scope
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch import facts, rates
from cloudside.mail.watch.ledger import HOURLY_S, Facts, Ledger
from cloudside.mail.watch.rates import Crossing, Level, Window
from cloudside.mail.watch.sightings import Sight, Sightings
from cloudside.mail.watch.tally import Tally

FLOOD = "mail-flood"
KINDS: Mapping[tuple[Window, Level], str] = {
    (Window.HOUR, Level.EXCEEDED): FLOOD,
    (Window.DAY, Level.EXCEEDED): "mail-flood-day",
    (Window.HOUR, Level.NEAR): "mail-near-limit",
    (Window.DAY, Level.NEAR): "mail-near-limit-day",
}
#: So long a count has to be near its limit before it is told: a flood passes by there on its way.
NEAR_SETTLES_S = 3.0


@dataclass(slots=True)
class Limits:
    """The step of the watch that holds counts against limits."""

    queue: Queue
    directory: Directory
    tally: Tally
    ledger: Ledger
    sightings: Sightings
    #: The last hour in which it was so, by kind and subject.
    _last: dict[tuple[str, str], int] = field(default_factory=dict)
    _near_since: dict[tuple[str, str], float] = field(default_factory=dict)
    _known: tuple[Snapshot | None, dict[tuple[Scope, str], Limit]] = (None, {})

    async def run(self, now: datetime) -> None:
        """One look. Raises KyotenError."""
        snapshot, hour = self.directory.snapshot, self.tally.hour
        limits = self._limits(snapshot)
        sent = [limits[key] for key in self._named(now) if key in limits]
        found = rates.crossings(sent, self.tally.hours, self.tally.days, hour)
        found += self._refused(found, limits, now)
        for window in Window:
            exceeded = self._of(found, window, Level.EXCEEDED, snapshot)
            flood = KINDS[window, Level.EXCEEDED]
            await self._settle(flood, exceeded, now, snapshot)
            standing = self.ledger.standing(flood)
            near = self._of(found, window, Level.NEAR, snapshot)
            await self._settle(
                KINDS[window, Level.NEAR],
                {subject: one for subject, one in near.items() if subject not in standing},
                now,
                snapshot,
                over=standing,
            )

    def floods(self) -> set[str]:
        """Whose limits are exceeded: staff know already that they send too much."""
        return {*self.ledger.standing(FLOOD), *self.ledger.standing("mail-flood-day")}

    def _limits(self, snapshot: Snapshot) -> dict[tuple[Scope, str], Limit]:
        if self._known[0] is not snapshot:
            every = [limit for origin in snapshot.origins.values() for limit in origin.limits]
            every += snapshot.device_limits.values()
            self._known = (snapshot, {(limit.scope, limit.name): limit for limit in every})
        return self._known[1]

    def _named(self, now: datetime) -> set[tuple[Scope, str]]:
        return {(scope, name) for scope, counts in self.tally.days.items() for name in counts}

    def _refused(
        self, found: list[Crossing], limits: Mapping[tuple[Scope, str], Limit], now: datetime
    ) -> list[Crossing]:
        """Limits that mail was refused for although less than all is used up: it had many recipients."""
        known = {(one.scope, one.name) for one in found if one.level is Level.EXCEEDED}
        added = []
        for seen in self.sightings.recent(Sight.LIMIT_REFUSED, now.timestamp()):
            scope, _, name = seen.subject.partition("/")
            key = (Scope(scope), name) if scope in tuple(Scope) else None
            if key is None or key in known or key not in limits or seen.last < self.tally.hour * 3600.0:
                continue
            limit = limits[key]
            window = Window.DAY if limit.hourly is None else Window.HOUR
            most = limit.daily if limit.hourly is None else limit.hourly
            counts = self.tally.days if window is Window.DAY else self.tally.hours
            count = counts.get(key[0], {}).get(name, 0)
            start = window.start(self.tally.hour)
            added.append(
                Crossing(limit.scope, name, window, start, count, most or 0, limit.action, Level.EXCEEDED)
            )  # fmt: skip
        return added

    def _of(self, found: list[Crossing], window: Window, level: Level, snapshot: Snapshot) -> dict[str, Crossing]:
        return {
            facts.subject_of(one.scope, one.name, snapshot): one
            for one in found
            if one.window is window and one.level is level
        }

    def _fading(self, found: Mapping[str, Crossing]) -> set[str]:
        """Limits of a day that would not be exceeded if the day went on like this hour: it is over, but for the sum."""
        return {
            subject
            for subject, one in found.items()
            if one.window is Window.DAY and 24 * self.tally.hours[one.scope].get(one.name, 0) <= one.most
        }

    async def _settle(
        self,
        kind: str,
        found: Mapping[str, Crossing],
        now: datetime,
        snapshot: Snapshot,
        over: Mapping[str, object] | None = None,
    ) -> None:
        hour, at = self.tally.hour, now.timestamp()
        for subject in found:
            self._last[kind, subject] = hour
        keep = {
            subject
            for subject, known in self.ledger.standing(kind).items()
            if subject not in (over or ())
            and not rates.over(self._last.setdefault((kind, subject), int(known.params.get("hour", hour))), hour)
        }
        wanted: dict[str, Facts] = {}
        for subject, crossing in found.items():
            since = self._near_since.setdefault((kind, subject), at)
            if crossing.level is Level.EXCEEDED or at - since >= NEAR_SETTLES_S or subject in keep:
                devices = self.tally.days[Scope.DEVICE]
                wanted[subject] = partial(facts.of_crossing, crossing, hour, devices, self.queue, snapshot)
        for key in [key for key in self._near_since if key[0] == kind and key[1] not in found]:
            del self._near_since[key]
        await self.ledger.settle(
            kind, wanted, now, keep=keep, remind_s=HOURLY_S, fading=self._fading(found), shared=True
        )
        for key in [key for key in self._last if key[0] == kind and key[1] not in self.ledger.standing(kind)]:
            if key[1] not in found:
                del self._last[key]
