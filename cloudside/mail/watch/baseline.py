"""What one site's mail is usually like, by hour of the week. Learns one finished hour after another. Pure.

Counts are of recipients, hours are numbers of clock hours UTC (``hour_of``). An expectation is shrunk: the hour of the
week towards the same hour of any day, that towards the site's mean, that towards a prior, each by how often it was
seen. Older weeks are forgotten, so seasons and growth are followed. A single hour counts only up to a clip, so that a
flood or a fault's burst does not become the rule; only a young site's hours count as they are.

Faults bring bursts, and those are normal. How high they rise above the expectation is remembered as a record, for two
hours and for a day; a day counts each hour up to a bound (``kept``), so that it tells what goes on from what was
short. A record counts only a week later, and not if there was an alarm meanwhile: a flood that grows slowly must not
make itself the rule.
"""

import math
from array import array
from collections import deque

BINS = 168
#: Weeks, days and hours after which what is older has faded.
WEEKS, DAYS, HOURS = 8, 28, 28 * 24
#: Recipients an hour that a site is taken to send before anything is known, and the hours' worth that this weighs.
PRIOR, PRIOR_HOURS = 0.5, 24.0
#: How many days the site's mean, and how many weeks the day's profile, weigh in the shrinking.
MEAN_DAYS, PROFILE_WEEKS = 3.0, 2.0
#: Below this age, in hours, a site is young: too little is known of its bursts.
YOUNG_HOURS = 14 * 24
#: Share of a record that is left an hour later: half of it after about ten months.
FADING = 0.5 ** (1 / 7000)

#: Days until a record counts.
RECORD_DAYS = 7

#: Of one hour, this many beyond three times the expectation count for a day.
KEPT = 25.0
_CLIP = 5.0


class Baseline:
    """The habit of one site. ``learn`` is called for each hour once, in order."""

    __slots__ = (
        "_before", "_day", "_day_hits", "_excess", "_hits", "_kept", "_level", "_means", "_pending", "_quiet",
        "_spread", "_sum", "_sum_means", "_week", "_week_hits", "hours", "record_day", "record_gap", "record_hours",
        "since_mail", "total",
    )  # fmt: skip

    def __init__(self) -> None:
        self._week, self._week_hits = array("d", bytes(8 * BINS)), array("d", bytes(8 * BINS))
        self._day, self._day_hits = array("d", bytes(8 * 24)), array("d", bytes(8 * 24))
        self._level = self._hits = self._excess = self._spread = 0.0
        #: The hours of a day but one: what was kept of them, and their means; and the sums of these.
        self._kept: deque[float] = deque(maxlen=23)
        self._means: deque[float] = deque(maxlen=23)
        self._sum = self._sum_means = self._quiet = 0.0
        #: Count and mean of the last hour.
        self._before = (0, 0.0)
        #: Records of the last days that do not count yet.
        self._pending: deque[tuple[float, float]] = deque([(0.0, 0.0)])
        #: Hours learnt so far, and recipients in them (clipped).
        self.hours, self.total = 0, 0.0
        #: The highest that two hours, and a day, rose above their expectation without being an alarm.
        self.record_hours = self.record_day = 0.0
        #: Hours since the last one with mail; the longest such time that was normal.
        self.since_mail, self.record_gap = 0, 0

    @property
    def young(self) -> bool:
        """Whether too little is known yet."""
        return self.hours < YOUNG_HOURS

    def expected(self, hour: int) -> float:
        """Mean number of recipients in this hour."""
        return self._shrunk(self._week[hour % BINS], self._day[hour % 24], self._level, PRIOR)

    def spread(self) -> float:
        """Variance of an hour's count over its mean: 1 for a Poisson process, more when mail comes in bursts."""
        return (self._excess + 2.0) / (self._spread + 1.0)

    def low(self, count: int, hours_excess: float, day_excess: float) -> bool:
        """Whether ``count`` in the running hour cannot exceed this, whatever is expected: the usual case, quickly."""
        return self._before[0] + count <= hours_excess and self._sum + count <= day_excess

    def pair(self, hour: int, count: int) -> tuple[int, float]:
        """Of ``hour``, which has ``count`` so far, and the one before: the count, and what is expected."""
        before, mean = self._before
        return before + count, mean + self.expected(hour)

    def day(self, hour: int, count: int) -> tuple[float, float]:
        """Of the 24 hours that end with ``hour``, which has ``count`` so far: what is kept, and what is expected."""
        mean = self.expected(hour)
        return self._sum + kept(count, mean), self._sum_means + mean

    def none_so_far(self) -> float:
        """Natural logarithm of the probability of no mail since the last hour that had some, were all as usual."""
        return self._quiet

    def any_expected(self, hour: int) -> float:
        """Probability that there is mail at all in this hour."""
        return min(self._shrunk(self._week_hits[hour % BINS], self._day_hits[hour % 24], self._hits, PRIOR), 1.0)

    def learn(self, hour: int, count: int, *, alarmed: bool = False, missed: bool = False) -> None:
        """Take in a finished hour.

        ``alarmed``: there was an alarm about too much, it sets no record. ``missed``: there was one about silence.
        """
        mean, hit = self.expected(hour), float(count > 0)
        clipped = float(count)
        if not self.young:
            clipped = min(clipped, mean + 3 * math.sqrt(mean * self.spread()) + _CLIP)
        self._note_quiet(hour, count, missed)
        self._note_records(count, mean, alarmed)
        bin_, clock = hour % BINS, hour % 24
        share = 1 / (min(self.hours // BINS, WEEKS - 1) + 1)
        self._week[bin_] += share * (clipped - self._week[bin_])
        self._week_hits[bin_] += share * (hit - self._week_hits[bin_])
        share = 1 / (min(self.hours // 24, DAYS - 1) + 1)
        self._day[clock] += share * (clipped - self._day[clock])
        self._day_hits[clock] += share * (hit - self._day_hits[clock])
        share = 1 / (min(self.hours, HOURS - 1) + 1)
        self._level += share * (clipped - self._level)
        self._hits += share * (hit - self._hits)
        self._excess += share * ((clipped - mean) ** 2 - self._excess)
        self._spread += share * (mean - self._spread)
        self.hours += 1
        self.total += clipped

    def accept(self, hours_excess: float, day_excess: float) -> None:
        """An alarm is over: what it was about, up to what would just have been one, may be normal from now on."""
        self.record_hours = max(self.record_hours, hours_excess)
        self.record_day = max(self.record_day, day_excess)

    def _shrunk(self, week: float, day: float, level: float, prior: float) -> float:
        hours = min(self.hours, HOURS)
        level = (hours * level + PRIOR_HOURS * prior) / (hours + PRIOR_HOURS)
        days = min(self.hours // 24, DAYS)
        day = (days * day + MEAN_DAYS * level) / (days + MEAN_DAYS)
        weeks = min(self.hours // BINS, WEEKS)
        return (weeks * week + PROFILE_WEEKS * day) / (weeks + PROFILE_WEEKS)

    def _note_quiet(self, hour: int, count: int, missed: bool) -> None:
        if count:
            if not missed:
                self.record_gap = max(self.record_gap, self.since_mail)
            self.since_mail, self._quiet = 0, 0.0
        else:
            self.since_mail += 1
            self._quiet += math.log1p(-min(self.any_expected(hour), 0.999))

    def _note_records(self, count: int, mean: float, alarmed: bool) -> None:
        self.record_hours *= FADING
        self.record_day *= FADING
        kept_now = kept(count, mean)
        if self.hours % 24 == 0:
            self._pending.append((0.0, 0.0))
            if len(self._pending) > RECORD_DAYS:
                self.accept(*self._pending.popleft())
        if alarmed:
            self._pending = deque([(0.0, 0.0)])
        else:
            before, mean_before = self._before
            hours, day = self._pending[-1]
            self._pending[-1] = (
                max(hours, before + count - mean_before - mean),
                max(day, self._sum + kept_now - self._sum_means - mean),
            )
        self._before = (count, mean)
        if len(self._kept) == 23:
            self._sum -= self._kept[0]
            self._sum_means -= self._means[0]
        self._kept.append(kept_now)
        self._means.append(mean)
        self._sum += kept_now
        self._sum_means += mean


def kept(count: int, mean: float) -> float:
    """What of an hour's count goes into the day: a short burst little, what goes on for hours all of it."""
    return min(float(count), 3 * mean + KEPT)


def surprise(count: float, mean: float, spread: float) -> float:
    """How surprising so many or more are: at least this many natural orders of magnitude (Chernoff's bound).

    The negative binomial distribution with this mean and ``spread`` times the mean as variance; with a spread of 1 it
    is Poisson's. 0 when the count is no more than the mean.
    """
    if count <= mean:
        return 0.0
    mean = max(mean, 1e-6)
    if spread <= 1.001:
        return count * math.log(count / mean) - (count - mean)
    size = mean / (spread - 1)
    return count * math.log(count / mean) - (count + size) * math.log((count + size) / (mean + size))
