"""Tells the registry what sites used: bytes from the kernel's counters, hours from what tunnels are live.

Runs on the reporter's thread. Each telling is one transaction that also moves the gateway's cursor: what is before the
cursor is told, what is behind it is still in the kernel, or a tunnel that still stands. So a daemon that was killed
leaves nothing out and tells nothing twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from cloudside.datapath.memberships import Memberships
from cloudside.datapath.traffic import Carried
from cloudside.registry import usage
from cloudside.registry.callers import OPERATOR
from cloudside.registry.counted import SiteUse
from cloudside.registry.database import Database
from cloudside.registry.usage import Cursor
from cloudside.vpn.tunnels import Live
from rules.compile import RuleSet

log = structlog.get_logger("kyoten.gateway")

#: A tunnel that is there again after so many seconds was not away: it was replaced, or nobody looked meanwhile.
BLINK_S = 15.0


class Counters(Protocol):
    """The kernel's counting sets (datapath.traffic)."""

    def cut(self, number: int, prefixes: Iterable[str]) -> None: ...
    def cuts(self) -> tuple[int, ...]: ...
    def read(self, number: int) -> dict[str, Carried]: ...
    def forget(self, number: int) -> None: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """The sites of a rule set: whose each prefix is, and who is a member of what."""

    sites: Mapping[str, tuple[str, str]]
    memberships: Memberships


class Attendance:
    """How long which site was connected, in hours (UTC). Pure. ``since``: until when that is told already."""

    def __init__(self, since: datetime | None = None) -> None:
        self._live: frozenset[str] = frozenset()
        self._at = since
        self._ms: dict[tuple[str, datetime], int] = {}

    def note(self, live: Mapping[str, int], at: datetime) -> None:
        """What is live now: site -> seconds since it was established."""
        before, self._at = self._at if self._at is not None else at, at
        blinked = (at - before).total_seconds() <= BLINK_S
        for site, established_s in live.items():
            kept = blinked and site in self._live
            self._add(site, before if kept else max(before, at - timedelta(seconds=established_s)), at)
        if blinked:
            for site in self._live - live.keys():
                self._add(site, before, at)
        self._live = frozenset(live)

    @property
    def until(self) -> datetime | None:
        """Until when it is noted; None: nothing is."""
        return self._at

    def take(self) -> dict[tuple[str, datetime], int]:
        """Milliseconds by site and hour since the last time."""
        taken, self._ms = self._ms, {}
        return taken

    def give_back(self, taken: Mapping[tuple[str, datetime], int]) -> None:
        """What could not be told."""
        for key, ms in taken.items():
            self._ms[key] = self._ms.get(key, 0) + ms

    def _add(self, site: str, begin: datetime, end: datetime) -> None:
        while begin < end:
            hour = hour_of(begin)
            part = min(end, hour + timedelta(hours=1))
            ms = round((part - begin) / timedelta(milliseconds=1))
            self._ms[site, hour] = self._ms.get((site, hour), 0) + ms
            begin = part


def hour_of(at: datetime) -> datetime:
    """The beginning of its hour, UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


class UsageTeller:
    """One for a gateway. `use` may be called by any thread, the rest by one. ``every_s``: seconds between tellings; the
    end of an hour is always one, so that bytes stand in the hour in which they went.
    """

    def __init__(self, database: Database, counters: Counters, *, gateway: str, every_s: float) -> None:
        self._database = database
        self._counters = counters
        self._gateway = gateway
        self._every = timedelta(seconds=every_s)
        self._rule_set: RuleSet | None = None
        self._known: tuple[RuleSet, _Known] | None = None
        self._whose: dict[str, str] = {}
        self._attendance: Attendance | None = None
        self._cursor: Cursor | None = None
        self._due_at: datetime | None = None

    def use(self, rule_set: RuleSet) -> None:
        """What decides from now on: it knows whose the prefixes are."""
        self._rule_set = rule_set

    def note(self, live: Mapping[str, Live] | None, at: datetime) -> None:
        """Which tunnels are live. Raises what the registry raises."""
        if self._attendance is None:
            with self._database.read() as session:
                self._cursor = usage.cursor(session, OPERATOR, self._gateway)
            self._attendance = Attendance(None if self._cursor is None else self._cursor.until)
        if live is not None:
            self._attendance.note({site: one.established_s for site, one in live.items()}, at)

    def tick(self, at: datetime, *, last: bool = False) -> None:
        """Tell if it is time, or the ``last`` time. Raises what the registry raises, and LinuxError."""
        if self._attendance is None or self._rule_set is None:
            return
        if not last and self._due_at is not None and at < self._due_at:
            return
        known = self._sites(self._rule_set)
        # What could not be told yet is told first; and as long as that fails nothing more is cut.
        for number in self._counters.cuts():
            if self._cursor is not None and number <= self._cursor.cut:
                self._counters.forget(number)
            else:
                self._tell(number, known, at)
        number = 1 + (self._cursor.cut if self._cursor is not None else 0)
        self._counters.cut(number, known.sites)
        self._tell(number, known, at)
        # A prefix that goes to another site counts for the one before until the next cut.
        self._whose = {prefix: site for prefix, (_, site) in known.sites.items()}
        self._due_at = min(at + self._every, hour_of(at) + timedelta(hours=1))

    def _sites(self, rule_set: RuleSet) -> _Known:
        if self._known is None or self._known[0] is not rule_set:
            parts = rule_set.parts.own.values()
            sites = {str(site.prefix): (site.tenant, site.name) for part in parts for site in part.sites}
            self._known = rule_set, _Known(sites, Memberships(rule_set))
        return self._known[1]

    def _tell(self, number: int, known: _Known, at: datetime) -> None:
        carried = self._counters.read(number)
        attendance = self._attendance
        if attendance is None:
            return
        connected = attendance.take()
        # What went in the moment before the hour ended is that hour's.
        hour = hour_of(at - timedelta(seconds=1))
        bytes_of: dict[str, tuple[int, int]] = {}
        for prefix, one in carried.items():
            site = self._whose.get(prefix) or known.sites.get(prefix, ("", ""))[1]
            from_site, to_site = bytes_of.get(site, (0, 0))
            bytes_of[site] = from_site + one.from_site, to_site + one.to_site
        keys = {*connected, *((site, hour) for site in bytes_of if site)}
        uses = []
        for site, at_hour in keys:
            from_site, to_site = bytes_of.get(site, (0, 0)) if at_hour == hour else (0, 0)
            uses.append(SiteUse(site, at_hour, from_site, to_site, connected.get((site, at_hour), 0)))
        tenant_of = {site: tenant for tenant, site in known.sites.values()}
        groups = {
            site: known.memberships.of_site(tenant_of[site], site)
            for site in {use.site for use in uses}
            if site in tenant_of
        }
        # Connected time is told as far as anybody looked: what came after is left to the next daemon, too.
        told = Cursor(number, attendance.until or at)
        try:
            with self._database.record() as session:
                usage.tell(session, OPERATOR, uses, groups, gateway=self._gateway, told=told)
        except BaseException:
            attendance.give_back(connected)
            raise
        self._cursor = told
        self._counters.forget(number)
