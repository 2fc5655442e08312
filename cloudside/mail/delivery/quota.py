"""How much of the account's day is left, and when it will be used up. Pure.

SES counts the mails of the last 24 hours, a window that slides: what was sent this time yesterday comes back. So the
forecast takes the growth of SES's own count over the last hours, in which what came back is contained already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

#: The hours that the forecast looks back, and the least it needs to say anything.
LOOK_BACK_S = 3 * 3600.0
LOOK_BACK_LEAST_S = 900.0
#: Near: less than this is left, in parts of the day's quota, or it will be used up so soon. It ends only when clearly
#: more is left, so that nobody is told twice of one thing.
NEAR_LEFT, NEAR_ENDS_LEFT = 0.20, 0.25
NEAR_WITHIN_S, NEAR_ENDS_S = 4 * 3600.0, 6 * 3600.0
#: The reserve is given up again when so many times the reserve is left; an exhausted account lives again when one
#: hundredth of its day has come back.
RESERVE_ENDS = 1.2
EXHAUSTED_ENDS = 0.01


class Supply(StrEnum):
    """How it stands."""

    OK = "ok"
    #: It may not last.
    NEAR = "near"
    #: What is left is for urgent mail.
    RESERVE = "reserve"
    EXHAUSTED = "exhausted"


#: States in which only urgent mail is sent. Exhausted too: what comes back first goes to what is urgent.
URGENT_ONLY = frozenset({Supply.RESERVE, Supply.EXHAUSTED})


@dataclass(frozen=True, slots=True)
class Reading:
    """What SES said. ``max_24h`` negative: no limit. ``rate``: mails a second. ``at``: seconds since the epoch."""

    at: float
    max_24h: float
    sent_24h: float
    rate: float
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Quota:
    """The last reading, and what follows from it.

    ``sent_24h`` contains what we sent since the reading. ``reserve``: mails that only urgent mail may use.
    ``per_hour``: how fast the count grows. ``exhausted_at``: when all would be used up if it went on so, seconds since
    the epoch; None: never, or nobody knows. ``enabled``: SES lets the account send at all.
    """

    max_24h: float
    sent_24h: float
    rate: float
    at: float
    enabled: bool
    state: Supply
    reserve: float
    per_hour: float
    exhausted_at: float | None

    @property
    def left(self) -> float:
        """Mails left of the last 24 hours; infinite without a limit."""
        return float("inf") if self.max_24h < 0 else max(0.0, self.max_24h - self.sent_24h)


def assess(
    readings: Sequence[Reading], *, sent_since: float, reserve_pct: float, before: Supply, now: float
) -> Quota | None:
    """How it stands after ``readings`` (oldest first) and ``sent_since`` mails after the last; None without any.

    ``before``: how it stood, since each state ends later than it begins.
    """
    if not readings:
        return None
    last = readings[-1]
    reserve = max(0.0, last.max_24h) * reserve_pct / 100
    sent = last.sent_24h + sent_since
    per_hour = _growth(readings, sent, now) * 3600
    left = last.max_24h - sent
    exhausted_at = now + left / per_hour * 3600 if last.max_24h >= 0 and per_hour > 0 and left > 0 else None
    state = Supply.OK if last.max_24h < 0 else _state(left, last.max_24h, reserve, exhausted_at, before, now)
    return Quota(last.max_24h, sent, last.rate, last.at, last.enabled, state, reserve, per_hour, exhausted_at)


def _growth(readings: Sequence[Reading], sent: float, now: float) -> float:
    """Mails a second that the count grew by within the last hours; 0 when they are too few."""
    first = next((reading for reading in readings if reading.at >= now - LOOK_BACK_S), readings[-1])
    span_s = now - first.at
    return (sent - first.sent_24h) / span_s if span_s >= LOOK_BACK_LEAST_S else 0.0


def _state(left: float, most: float, reserve: float, exhausted_at: float | None, before: Supply, now: float) -> Supply:
    if left <= (most * EXHAUSTED_ENDS if before is Supply.EXHAUSTED else 0.0):
        return Supply.EXHAUSTED
    if reserve and left <= (reserve * RESERVE_ENDS if before in URGENT_ONLY else reserve):
        return Supply.RESERVE
    is_near = before is not Supply.OK
    soon_s = NEAR_ENDS_S if is_near else NEAR_WITHIN_S
    if left < most * (NEAR_ENDS_LEFT if is_near else NEAR_LEFT):
        return Supply.NEAR
    if exhausted_at is not None and exhausted_at - now < soon_s:
        return Supply.NEAR
    return Supply.OK
