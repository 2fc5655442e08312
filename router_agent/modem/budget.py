"""The mobile line's data this month: counted from the interface's counters over resets, kept with few writes.

A counter belongs to an epoch: this boot's interface with this index. In the same epoch what it grew by is counted; in
another one, or when it went back, it has begun at zero. What an interface carried between the last look and its end is
told by pppd (`close`). The month is that of the site's time zone.

Written to disk at most every KEEP_S seconds and only when something was counted; at once when a threshold is passed,
the month changes or the agent ends. So at most some 290 small writes a day (and one each UNKEPT_MAX_BYTES), and a power
cut forgets at most KEEP_S of data or UNKEPT_MAX_BYTES, whichever is less.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from zoneinfo import ZoneInfo

from linux.files import write_durably

NAME = "mobile-data.json"

MIB = 1 << 20
KEEP_S = 300.0
UNKEPT_MAX_BYTES = 16 * MIB

#: Part of the budget at which it is said that it runs out.
WARN_PART = 0.8

#: A clock before this has not been set yet.
_CLOCK_SET = datetime(2026, 1, 1, tzinfo=UTC)


class Action(Enum):
    """What happens when the month's data are spent; the values are the setting's words."""

    REPORT = "report"
    #: Only tunnel and heartbeats go over the mobile line; the LAN has to wait for a wired one.
    TUNNEL_ONLY = "tunnel-only"
    STOP = "stop"


class Level(Enum):
    """How much of the budget is used."""

    FINE = "fine"
    NEAR = "near"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Reading:
    """An interface's counters, both directions together. ``epoch``: changes when they begin at zero again."""

    epoch: str
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """``used_bytes`` in ``month`` (YYYY-MM; empty: the clock was never set); the counter at the last look.

    ``timezone`` is kept, too: an agent that starts has not heard from the cloud yet.
    """

    month: str = ""
    used_bytes: int = 0
    epoch: str = ""
    counter_bytes: int = 0
    timezone: str = "UTC"


def month(now: datetime, timezone: str) -> str | None:
    """The calendar month at the site; None: the clock is not set. A zone that is not known here counts as UTC."""
    if now < _CLOCK_SET:
        return None
    try:
        return f"{now.astimezone(ZoneInfo(timezone)):%Y-%m}"
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return f"{now.astimezone(UTC):%Y-%m}"


def account(ledger: Ledger, reading: Reading | None, this_month: str | None) -> Ledger:
    """Take in a reading (None: the interface is not there).

    A clock that goes back keeps what was used: rather too much is counted than too little.
    """
    if this_month is not None and this_month != ledger.month:
        used = 0 if ledger.month and this_month > ledger.month else ledger.used_bytes
        ledger = replace(ledger, month=this_month, used_bytes=used)
    if reading is None:
        return ledger
    grown = reading.total_bytes
    if reading.epoch == ledger.epoch and reading.total_bytes >= ledger.counter_bytes:
        grown = reading.total_bytes - ledger.counter_bytes
    return replace(ledger, used_bytes=ledger.used_bytes + grown, epoch=reading.epoch, counter_bytes=reading.total_bytes)


def close(ledger: Ledger, total_bytes: int) -> Ledger:
    """The interface has ended, and this is what it carried in all: what no look has seen is added.

    pppd leaves out what was said before IP was up, some hundred bytes a call.
    """
    unseen = max(0, total_bytes - ledger.counter_bytes)
    return replace(ledger, used_bytes=ledger.used_bytes + unseen, epoch="", counter_bytes=0)


def level(used_bytes: int, budget_bytes: int) -> Level:
    """How much of the budget is used; ``budget_bytes`` 0: there is none."""
    if budget_bytes <= 0 or used_bytes < WARN_PART * budget_bytes:
        return Level.FINE
    return Level.SPENT if used_bytes >= budget_bytes else Level.NEAR


class BudgetBook:
    """The ledger on disk. ``now`` is monotonic."""

    def __init__(self, state: Path, *, now: float) -> None:
        self._path = state / NAME
        self.trouble: str | None = None
        self.ledger = self._kept = self._load()
        self._kept_at = now

    def use_timezone(self, timezone: str) -> None:
        """The site's time zone, as the cloud tells it."""
        self.ledger = replace(self.ledger, timezone=timezone)

    def look(self, reading: Reading | None, clock: datetime, *, budget_bytes: int, now: float) -> None:
        """Count, and keep when it is time. ``clock``: the time of day, which may be wrong."""
        before = self.ledger
        self.ledger = account(before, reading, month(clock, before.timezone))
        passed = level(before.used_bytes, budget_bytes) is not level(self.ledger.used_bytes, budget_bytes)
        unkept = self.ledger.used_bytes - self._kept.used_bytes
        if passed or self.ledger.month != before.month or unkept >= UNKEPT_MAX_BYTES or now - self._kept_at >= KEEP_S:
            self.keep(now)

    def close(self, total_bytes: int, now: float) -> None:
        """The interface has ended; see `close`."""
        self.ledger = close(self.ledger, total_bytes)
        self.keep(now)

    def keep(self, now: float) -> None:
        """Write, if there is something new. A disk that is full is tried again at the next time."""
        self._kept_at = now
        if self.ledger == self._kept or not (self.ledger.used_bytes or self.ledger.epoch or self._kept.month):
            return  # nothing new, or a router without a mobile line
        try:
            write_durably(self._path, json.dumps(asdict(self.ledger)).encode())
        except OSError as error:
            self.trouble = error.strerror or type(error).__name__
        else:
            self._kept = self.ledger
            self.trouble = None

    def _load(self) -> Ledger:
        try:
            found = json.loads(self._path.read_text())
            ledger = Ledger(**found)
            if not (
                all(isinstance(number, int) and number >= 0 for number in (ledger.used_bytes, ledger.counter_bytes))
                and isinstance(ledger.month, str)
                and isinstance(ledger.epoch, str)
                and isinstance(ledger.timezone, str)
            ):
                raise TypeError("ledger")
        except FileNotFoundError:
            return Ledger()
        except (OSError, ValueError, TypeError) as error:
            self.trouble = f"{NAME} was damaged ({type(error).__name__})"
            return Ledger()
        return ledger
