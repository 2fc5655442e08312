"""A simulated year of a fleet's mail, with floods and silences put in: how often the watch cries wolf, what it misses.

``python -m tests.bench.mail_fleet [--sites N] [--seed N]`` prints the figures, last line JSON. The detectors are the
product's own (cloudside.mail.watch); nothing here knows how they work.

**Normal mail** of a site (all of it is drawn anew for each site; the first two weeks, when nothing is known yet,
count): a background of 1 to 300 recipients a day (log-normal, median 6) with the hours of offices, shifts, or round
the clock; daily, weekly and monthly reports at fixed times to several recipients, now and then missed; bursts at
faults, every three weeks on average, of 12 recipients in the median and above 100 in one of a hundred, most within an
hour, some for half a day; summer and winter; growth over the year, and in steps of up to three times; public
holidays; sites that are shut down over long holidays or on their own; new recipients' domains; sites that join during
the year, with a commissioning time.

**A flood** is mail of one site beyond its normal mail, at a rate of at least 20 recipients an hour and of at least
three times the site's own mean, from a credential thief or a device in a loop. Four shapes: *steady* for 24 hours,
*ramp* from nothing over three days, *night* from 22 to 5 o'clock, *burst* of 15 to 60 minutes with 200 recipients at
least. Steady, ramp and night: 20 to 2,000 an hour, evenly on a logarithmic scale. Half are a thief's (four of five of
these to hundreds of domains, one to a single new one), half a loop's, to the usual recipients. It is caught when an
alarm names the site before it ends, a burst within an hour of it. Sites have been there for four weeks. **A silence**
is a site, which otherwise sends on five days of a week at least, without any mail for seven days; caught within
these.

Alarms in a flood and the day after it, and in a silence, are not false; all others are, also those that have a reason
which people may want to hear of. Limits play no part: what they catch is told apart.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from cloudside.mail.watch import anomaly
from cloudside.mail.watch.habit import Habit

DAYS = 365
SITES = 1000
SEED = 5
#: The first hour of the year is a Monday's first: hour numbers of the simulation begin at a multiple of a week.
FIRST = 168 * 2900
#: Floods and silences a site and year, and the days that a site has been there before.
FLOODS, SILENCES, KNOWN_DAYS = 0.6, 0.3, 28
#: Recipients an hour and a day that a site without limits of its own may send (cloudside.config).
HOURLY_LIMIT, DAILY_LIMIT = 60, 500

#: Days of the year that are public holidays, and those of the long ones, when some sites are shut down.
_LONG = frozenset({*range(3), *range(118, 125), *range(224, 228), *range(362, 365)})
_HOLIDAYS = _LONG | {7, 41, 53, 79, 200, 258, 265, 284, 306, 326}
_MONTHS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)

_OFFICE = tuple(0.2 if hour < 7 or hour > 19 else 2.0 for hour in range(24))
_SHIFTS = tuple(1.6 if 6 <= hour < 22 else 0.2 for hour in range(24))
_ALWAYS = (1.0,) * 24


@dataclass(slots=True)
class Flood:
    """Extra mail, minute by minute. Hours as the simulation counts them, fractions too."""

    shape: str
    thief: bool
    spread: bool
    start: float
    end: float
    rate: float
    caught: float | None = None
    how: str = ""
    limited: bool = False

    def upto(self, at: float) -> float:
        """Recipients from the start until ``at``."""
        passed = min(max(at - self.start, 0.0), self.end - self.start)
        if self.shape == "ramp":
            return self.rate * passed * passed / (2 * (self.end - self.start))
        return self.rate * passed


@dataclass(slots=True)
class Silence:
    """No mail between two hours."""

    start: int
    end: int
    caught: int | None = None


@dataclass(slots=True)
class Year:
    """What became of a site's year."""

    days: int = 0
    floods: list[Flood] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    false: list[tuple[int, str]] = field(default_factory=list)
    limit_notices: int = 0
    #: Spans in which the silence detector said silent, and the hours in which the site was quiet, and watched.
    silent: list[tuple[int, int]] = field(default_factory=list)
    quiet: list[int] = field(default_factory=list)
    watched_from: int | None = None


class Site:
    """How one site sends when all is well."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.first_day = 0 if rng.random() < 0.9 else rng.randrange(20, 250)
        profile, rest = rng.choice(((_OFFICE, 0.1), (_OFFICE, 0.3), (_SHIFTS, 0.4), (_ALWAYS, 1.0), (_ALWAYS, 0.8)))
        volume = min(math.exp(rng.gauss(math.log(6), 1.3)), 300.0)
        scale = volume / sum(profile)
        self.work = tuple(scale * part for part in profile)
        self.rest = tuple(scale * part * rest for part in profile)
        self.season = (rng.uniform(0, 0.5), rng.choice((0.0, math.pi)))
        self.growth = math.exp(rng.gauss(0, 0.3))
        self.step = (rng.randrange(DAYS), rng.uniform(1.5, 3.0)) if rng.random() < 0.1 else (DAYS, 1.0)
        self.reports = [
            (rng.randrange(24), rng.choice((1, 1, 1, 2, 3, 5)), rng.random() < 0.2)
            for _ in range(rng.choice((0, 1, 1, 2, 3)))
        ]
        self.weekly = (rng.randrange(24), rng.randint(1, 10)) if rng.random() < 0.3 else None
        self.monthly = (rng.randrange(24), rng.randint(5, 40)) if rng.random() < 0.1 else None
        self.burst_days = math.exp(rng.gauss(math.log(21), 0.6))
        self.burst_size = 12 * math.exp(rng.gauss(0, 0.4))
        self.shut_on_long_holidays = rng.random() < 0.12
        first = self.first_day + 30
        self.shutdown = range(0)
        if rng.random() < 0.2 and first < DAYS - 10:
            day = rng.randrange(first, DAYS - 8)
            self.shutdown = range(day, day + rng.randint(2, 6))
        self.bursts = self._bursts()
        self.first_of_month = frozenset(_MONTHS)

    def mean_rate(self) -> float:
        """Recipients an hour over a usual week, without bursts."""
        daily = (5 * sum(self.work) + 2 * sum(self.rest)) / 7
        daily += sum(count * (5 / 7 if weekdays else 1) for _, count, weekdays in self.reports)
        return (daily + (self.weekly[1] / 7 if self.weekly else 0) + (self.monthly[1] / 30 if self.monthly else 0)) / 24

    def steady(self) -> bool:
        """Whether there is mail on five days of a week at least, but for chance."""
        return bool(self.reports) or sum(self.work) >= 5

    def days(self) -> Iterator[tuple[int, list[int]]]:
        """Day after day: its number, and the recipients of each hour."""
        for day in range(self.first_day, DAYS):
            yield day, self._day(day)

    def _day(self, day: int) -> list[int]:
        rng = self.rng
        if day in self.shutdown or (self.shut_on_long_holidays and day in _LONG):
            return [0] * 24
        rests = day % 7 >= 5 or day in _HOLIDAYS
        amount, phase = self.season
        factor = (1 + amount * math.cos(2 * math.pi * day / DAYS + phase)) * self.growth ** (day / DAYS)
        factor *= self.step[1] if day >= self.step[0] else 1.0
        counts = [poisson(rng, factor * mean) for mean in (self.rest if rests else self.work)]
        for hour, count, weekdays in self.reports:
            if not (rests and weekdays) and rng.random() > 0.002:
                counts[hour] += count
        if self.weekly and day % 7 == 0:
            counts[self.weekly[0]] += self.weekly[1]
        if self.monthly and day in self.first_of_month:
            counts[self.monthly[0]] += self.monthly[1]
        if day < self.first_day + 10 and self.first_day:
            counts[rng.randrange(9, 18)] += rng.randrange(40)
        for hour in range(24):
            counts[hour] += self.bursts.get(24 * day + hour, 0)
        return counts

    def _bursts(self) -> dict[int, int]:
        rng, found = self.rng, dict[int, int]()
        at = 24 * self.first_day + rng.expovariate(1 / self.burst_days) * 24
        while at < 24 * DAYS:
            size = min(self.burst_size * math.exp(rng.gauss(0, 0.9)), 500.0)
            hours = rng.uniform(0.2, 1.5) if rng.random() < 0.85 else rng.uniform(2, 12)
            for _ in range(round(size)):
                # Dense at first, thinning out.
                hour = int(at + hours * rng.random() ** 2)
                found[hour] = found.get(hour, 0) + 1
            at += rng.expovariate(1 / self.burst_days) * 24
        return found

    def new_domains(self) -> dict[int, int]:
        """Hour -> number of domains that are sent to for the first time then, after the first weeks."""
        rng, found = self.rng, dict[int, int]()
        for _ in range(poisson(rng, 6)):
            found[24 * rng.randrange(self.first_day, DAYS) + rng.randrange(24)] = rng.choice((1, 1, 1, 1, 2, 3))
        if rng.random() < 0.02:  # a mailing to everybody in the building
            found[24 * rng.randrange(self.first_day, DAYS) + rng.randrange(24)] = rng.randint(5, 30)
        return found


def poisson(rng: random.Random, mean: float) -> int:
    """A number of events."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    left, count = math.exp(-mean), 0
    product = rng.random()
    while product > left:
        count += 1
        product *= rng.random()
    return count


def disturb(site: Site, year: Year, rng: random.Random) -> None:
    """Put floods and silences into a site's year, none near another."""
    free = [day for day in range(site.first_day + KNOWN_DAYS, DAYS - 12) if not _shut(site, range(day, day + 9))]
    for kind, share in (("flood", FLOODS), ("silence", SILENCES)):
        if rng.random() >= share or not free or (kind == "silence" and not site.steady()):
            continue
        day = rng.choice(free)
        free = [other for other in free if abs(other - day) > 24]
        hour = 24 * day + rng.randrange(24)
        if kind == "silence":
            year.silences.append(Silence(hour, hour + 7 * 24))
        else:
            year.floods.append(_flood(site, day, hour + rng.random(), rng))


def _shut(site: Site, days: range) -> bool:
    return any(day in site.shutdown or (site.shut_on_long_holidays and day in _LONG) for day in days)


def _flood(site: Site, day: int, start: float, rng: random.Random) -> Flood:
    shape = rng.choice(("steady", "ramp", "night", "burst"))
    rate = max(math.exp(rng.uniform(math.log(20), math.log(2000))), 3 * site.mean_rate())
    hours = {"steady": 24.0, "ramp": 72.0, "night": 7.0, "burst": rng.uniform(0.25, 1.0)}[shape]
    if shape == "night":
        start = 24.0 * day + 22
    if shape == "burst":
        rate = max(math.exp(rng.uniform(math.log(200), math.log(2000))) / hours, 3 * site.mean_rate())
    thief = rng.random() < 0.5
    return Flood(shape, thief, thief and rng.random() < 0.8, start, start + hours, rate)


def live(site: Site, year: Year, rng: random.Random) -> Year:
    """Let a site's year pass under watch."""
    habit, domains = Habit(), site.new_domains()
    year.days = DAYS - site.first_day
    silent_since: int | None = None
    fresh: list[tuple[float, int]] = []
    domain_alarm = False
    for day, counts in site.days():
        day_total, told_day = 0, False
        for clock, normal in enumerate(counts):
            hour = 24 * day + clock
            if any(silence.start <= hour < silence.end for silence in year.silences):
                normal = 0
            was = habit.standing is not None
            flood = next((one for one in year.floods if one.start < hour + 1 and hour < one.end), None)
            extra = 0
            if flood is not None:
                extra = _flooded_hour(habit, flood, hour, normal, was, day_total, rng)
            count = normal + extra
            day_total += count
            found = habit.look(FIRST + hour, count)
            if found is not None and not was and not _excused(year, hour):
                year.false.append((hour, found.span.value))
            if count > HOURLY_LIMIT and flood is None:
                year.limit_notices += 1
            elif day_total > DAILY_LIMIT and not told_day and flood is None:
                told_day, year.limit_notices = True, year.limit_notices + 1
            habit.finish(FIRST + hour, count)
            if normal and hour in domains:
                fresh.append((hour, domains[hour]))
            fresh = [one for one in fresh if hour - one[0] < 24]
            many = sum(number for _, number in fresh) >= anomaly.NEW_DOMAINS
            if many and not domain_alarm and not habit.baseline.young and not _excused(year, hour):
                year.false.append((hour, "domains"))
            domain_alarm = many
            silent_since = _listen(habit, year, hour, silent_since)
    if silent_since is not None:
        year.silent.append((silent_since, 24 * DAYS))
    return year


def _flooded_hour(
    habit: Habit, flood: Flood, hour: int, normal: int, was: bool, day_total: int, rng: random.Random
) -> int:
    """An hour with a flood, looked at every two minutes; the extra recipients in it."""
    before = poisson(rng, flood.upto(hour)) if flood.start < hour else 0
    extra, steps = 0, 30
    for step in range(1, steps + 1):
        at = hour + step / steps
        extra += poisson(rng, flood.upto(at) - flood.upto(at - 1 / steps))
        count = extra + round(normal * step / steps)
        if at <= flood.start or flood.caught is not None:
            continue
        flood.limited = flood.limited or count > HOURLY_LIMIT or day_total + count > DAILY_LIMIT
        # An alarm that stood already is told again while it lasts.
        if (
            anomaly.unusual(habit.baseline, FIRST + hour, count) if was else habit.look(FIRST + hour, count)
        ) is not None:
            flood.caught, flood.how = at, "count"
        elif flood.spread and _distinct(before + extra) >= anomaly.NEW_DOMAINS:
            flood.caught, flood.how = at, "domains"
    return extra


def _distinct(mails: int, domains: int = 200) -> float:
    """Expected number of different domains: spam's lists follow roughly Zipf's law."""
    total = sum(1 / rank for rank in range(1, domains + 1))
    return sum(1 - (1 - 1 / (rank * total)) ** mails for rank in range(1, domains + 1)) if mails < 200 else 99.0


def _excused(year: Year, hour: int) -> bool:
    return any(flood.start - 1 <= hour <= flood.end + 24 for flood in year.floods)


def _listen(habit: Habit, year: Year, hour: int, since: int | None) -> int | None:
    baseline = habit.baseline
    if year.watched_from is None and anomaly.watched(baseline):
        year.watched_from = hour
    if anomaly.quiet(baseline):
        year.quiet.append(hour)
    if anomaly.silent(baseline):
        return hour if since is None else since
    if since is not None:
        year.silent.append((since, hour))
    return None


def judge_silences(years: list[Year]) -> int:
    """Decide which silences are alarms, now that it is known who else was quiet; how often many were at once."""
    quiet, watched = [0] * (24 * DAYS), [0] * (24 * DAYS)
    for year in years:
        for hour in year.quiet:
            quiet[hour] += 1
        if year.watched_from is not None:
            for hour in range(year.watched_from, 24 * DAYS):
                watched[hour] += 1
    together = [anomaly.together(quiet[hour], watched[hour]) for hour in range(24 * DAYS)]
    after = anomaly.TOGETHER_AFTER_HOURS
    common = [any(together[max(0, hour - after) : hour + 1]) for hour in range(24 * DAYS)]
    for year in years:
        for start, end in year.silent:
            told = next((hour for hour in range(start, end) if not common[hour]), None)
            if told is None:
                continue
            silence = next((one for one in year.silences if one.start <= told < one.end), None)
            if silence is None:
                year.false.append((told, "silence"))
            elif silence.caught is None:
                silence.caught = told
    return sum(now and not before for before, now in pairwise([False, *common]))


def measure(sites: int = SITES, seed: int = SEED) -> dict[str, float]:
    """Simulate the year of so many sites; the figures."""
    years = []
    for number in range(sites):
        rng = random.Random(f"{seed}/{number}")
        site = Site(rng)
        year = Year()
        disturb(site, year, rng)
        years.append(live(site, year, rng))
    common = judge_silences(years)
    days = sum(year.days for year in years)
    floods = [flood for year in years for flood in year.floods]
    silences = [silence for year in years for silence in year.silences]
    wolf = [kind for year in years for _, kind in year.false]
    caught = [flood for flood in floods if flood.caught is not None]
    delays = sorted(60 * (flood.caught - flood.start) for flood in caught if flood.caught is not None)
    heard = [silence for silence in silences if silence.caught is not None]
    figures: dict[str, float] = {
        "site_days": days,
        # A silence of many is one alarm for all of them; these are all false here.
        "false_alarms_per_1000_site_days": 1000 * (len(wolf) + common) / days,
        **{f"false_{kind}_per_1000": 1000 * wolf.count(kind) / days for kind in ("hours", "day", "domains", "silence")},
        "floods": len(floods),
        "floods_caught_pct": 100 * len(caught) / max(len(floods), 1),
        "floods_caught_by_limits_alone_pct": 100 * sum(flood.limited for flood in floods) / max(len(floods), 1),
        "flood_delay_minutes_p50": median(delays) if delays else 0.0,
        "flood_delay_minutes_p95": delays[int(0.95 * len(delays))] if delays else 0.0,
        "silences": len(silences),
        "silences_caught_pct": 100 * len(heard) / max(len(silences), 1),
        "silences_of_many": common,
        "silence_delay_hours_p50": median(one.caught - one.start for one in heard if one.caught) if heard else 0.0,
        "limit_notices_per_1000_site_days": 1000 * sum(year.limit_notices for year in years) / days,
    }
    for shape in ("steady", "ramp", "night", "burst"):
        of_shape = [flood for flood in floods if flood.shape == shape]
        figures[f"caught_{shape}_pct"] = (
            100 * sum(flood.caught is not None for flood in of_shape) / max(len(of_shape), 1)
        )
    return figures


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=SITES)
    parser.add_argument("--seed", type=int, default=SEED)
    chosen = parser.parse_args()
    start = time.process_time()
    figures = measure(chosen.sites, chosen.seed)
    figures["seconds"] = time.process_time() - start
    for name, value in figures.items():
        sys.stderr.write(f"{name:44} {value:10.4g}\n")
    sys.stdout.write(json.dumps({name: round(value, 4) for name, value in figures.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
