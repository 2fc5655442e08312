"""What may be believed of the time. Pure.

Two instants bound a clock that nobody has vouched for in this start of the machine. The *floor* has certainly passed:
the image was built, certificates that are ours were signed. The *ceiling* is the end of the router's own certificate:
a clock beyond it makes everything impossible, so nothing is lost by not believing it.

Nothing that was heard is kept for the next start: a wrong word must end with the power.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: Without a certificate of its own a router's clock is not believed so far beyond the floor.
FARTHEST = timedelta(days=3650)
#: The clock is set when it is off by more than the exchange leaves open, and this.
TOLERATED_S = 2.0
#: The Date of an answer tells whole seconds.
_DATE_S = 1.0
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bounds:
    """See the module."""

    floor: datetime
    ceiling: datetime


@dataclass(frozen=True, slots=True)
class Said:
    """``at``: the Date of an answer; ``took_s``: seconds from its question until it was there."""

    at: datetime
    took_s: float

    @property
    def now(self) -> datetime:
        """The middle of what is possible now."""
        return self.at + timedelta(seconds=(_DATE_S + self.took_s) / 2)

    def differs(self, here: datetime) -> bool:
        """Whether our clock cannot be right."""
        off_s = (here - self.at).total_seconds()
        return not -TOLERATED_S <= off_s <= _DATE_S + self.took_s + TOLERATED_S


@dataclass(frozen=True, slots=True)
class Leaf:
    """From when to when the certificate counts that somebody showed."""

    begins: datetime
    ends: datetime


def bounds(passed: Iterable[datetime], ends: datetime | None) -> Bounds:
    """``passed``: instants that have certainly passed; ``ends``: of the router's own certificate, None: it has none."""
    floor = max((_BEGINNING, *passed))
    return Bounds(floor, max(floor, ends) if ends is not None else floor + FARTHEST)


def at_start(here: datetime, known: Bounds) -> datetime | None:
    """What to set the clock to before anything is asked; None: it may be right."""
    return None if known.floor <= here <= known.ceiling else known.floor


def on_answer(here: datetime, said: Said, known: Bounds) -> datetime | None:
    """An answer of the cloud whose certificate counts by our clock. What to set it to; None: leave it."""
    return said.now if said.at >= known.floor and said.differs(here) else None


def on_voucher(here: datetime, said: Said, leaf: Leaf, known: Bounds, *, proven: bool) -> datetime | None:
    """An answer of somebody who has the endpoint's key, with a certificate of our authority that does not count by our
    clock. It is believed only as far as that certificate goes, and never back once the time was ``proven``.
    """
    if not max(leaf.begins, known.floor) <= said.at <= leaf.ends or not said.differs(here):
        return None
    return None if proven and said.at < here else said.now
