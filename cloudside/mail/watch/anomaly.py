"""Whether a site's mail is unlike itself: too much, to new places, bouncing, or missing. Pure.

Thresholds were chosen on a simulated fleet year (tests/bench/mail_fleet.py; docs/adr/0017). They are floors and
factors, not probabilities alone: bursts at faults are normal, and what is improbable for a quiet site may be harmless.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum

from cloudside.mail.watch.baseline import Baseline, surprise

#: Two hours and a day have to be so surprising (natural logarithm of one over the probability).
SURPRISE = 16.0
#: So many recipients above the expectation are needed in two hours, and in a day in which short bursts count little.
HOURS_FLOOR, DAY_FLOOR = 140.0, 100.0
#: And so many times as many as the site ever had without alarm.
RECORD_FACTOR = 1.5
#: While a site is young its floors are so many times as high.
YOUNG_FACTOR = 2.0
#: Different recipient domains that a site never sent to before, within a day.
NEW_DOMAINS = 5

#: Silence: the probability of it, the hours that it has to last, and how many times the longest normal one.
SILENCE, SILENCE_HOURS, GAP_FACTOR = math.log(5e-4), 48, 1.4
#: A site that sent fewer recipients than this in the time it was watched is not expected to send.
SILENCE_MIN_TOTAL = 20
#: When of the sites that are watched this share, and at least so many, are quieter than they should be (with this
#: probability of it), it is not about one of them: a holiday, or a fault of ours.
TOGETHER_SHARE, TOGETHER_MIN, QUIET = 0.06, 5, math.log(0.01)
#: For so many hours after that nobody's silence is told: not everybody comes back at once.
TOGETHER_AFTER_HOURS = 24

#: Bounces: of a site's mail of a day, this share and this number; the alarm ends below half of it.
BOUNCE_SHARE, BOUNCE_MIN = 0.2, 10


class Span(StrEnum):
    """The window that shows it."""

    #: The running clock hour and the one before: a burst knows nothing of clock hours.
    HOURS = "hours"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Unusual:
    """Too much for this site. ``most`` is what would still be usual."""

    span: Span
    count: int
    expected: float
    most: int


@dataclass(frozen=True, slots=True)
class Bounces:
    """A day's outcomes of a site."""

    bounced: int
    finished: int

    @property
    def share(self) -> float:
        """Of what was finished, 0 to 1."""
        return self.bounced / self.finished if self.finished else 0.0


def excesses(baseline: Baseline) -> tuple[float, float]:
    """How far two hours and a day may rise above what is expected."""
    factor = YOUNG_FACTOR if baseline.young else 1.0
    return (
        max(HOURS_FLOOR * factor, RECORD_FACTOR * baseline.record_hours),
        max(DAY_FLOOR * factor, RECORD_FACTOR * baseline.record_day),
    )


def unusual(baseline: Baseline, hour: int, count: int) -> Unusual | None:
    """Whether ``count`` recipients in the running ``hour`` are too many, with the hour before it or the last 23.

    It is known as soon as the count is reached, not at the hour's end: the expectation is that of the whole hour.
    """
    in_hours, in_day = excesses(baseline)
    if not count or baseline.low(count, in_hours, in_day):
        return None
    both, expected = baseline.pair(hour, count)
    if both > expected + in_hours and surprise(both, expected, baseline.spread()) > SURPRISE:
        return Unusual(Span.HOURS, both, expected, math.floor(expected + in_hours))
    kept, expected = baseline.day(hour, count)
    # A day's hours are not independent: what makes one of them busy makes the next one busy.
    if kept > expected + in_day and surprise(kept, expected, 2 * baseline.spread()) > SURPRISE:
        return Unusual(Span.DAY, round(kept), expected, math.floor(expected + in_day))
    return None


def watched(baseline: Baseline) -> bool:
    """Whether enough is known of a site to miss its mail."""
    return not baseline.young and baseline.total >= SILENCE_MIN_TOTAL


def quiet(baseline: Baseline) -> bool:
    """Whether it has been quieter than it should be, a little: no reason for an alarm, but see ``together``."""
    return watched(baseline) and baseline.none_so_far() < QUIET


def silent(baseline: Baseline) -> bool:
    """Whether mail is missing: the silence is improbable, and longer than the site's own ones by far."""
    return (
        watched(baseline)
        and baseline.since_mail >= max(SILENCE_HOURS, GAP_FACTOR * baseline.record_gap)
        and baseline.none_so_far() < SILENCE
    )


def together(quiet_sites: int, watched_sites: int) -> bool:
    """Whether so many sites are quiet at once that the cause is common: then a single one's silence says nothing."""
    return quiet_sites >= max(TOGETHER_MIN, TOGETHER_SHARE * watched_sites)


def new_domains(sent: Mapping[str, int], known: Set[str]) -> tuple[str, ...]:
    """The domains that are new, most mail first, if they are too many; else none."""
    new = [domain for domain in sent if domain not in known]
    return tuple(sorted(new, key=lambda domain: (-sent[domain], domain))) if len(new) >= NEW_DOMAINS else ()


def too_many_bounces(bounces: Bounces, *, already: bool) -> bool:
    """Whether a site's mail bounces. ``already``: the alarm stands, and ends only well below."""
    least = BOUNCE_MIN / 2 if already else BOUNCE_MIN
    return bounces.bounced >= least and bounces.share >= (BOUNCE_SHARE / 2 if already else BOUNCE_SHARE)
