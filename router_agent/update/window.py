"""The maintenance window: when a router may restart by itself, in the site's time. Pure.

``22:00-05:00`` is every night from ten to five; the end does not belong to it. Nothing, or both ends alike: any time.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

_FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)\Z", re.ASCII)

#: A clock before this has not been set yet.
_CLOCK_SET = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes after midnight, site time."""

    first: int = 0
    last: int = 0

    def open_at(self, minute: int) -> bool:
        """Whether this minute of the day belongs to it."""
        if self.first == self.last:
            return True
        if self.first < self.last:
            return self.first <= minute < self.last
        return minute >= self.first or minute < self.last


ANY_TIME = Window()


def parse(text: str) -> Window:
    """Raises ValueError: not of the form HH:MM-HH:MM."""
    if not text:
        return ANY_TIME
    found = _FORM.match(text)
    if found is None:
        raise ValueError(text[:40])
    first_hour, first_minute, last_hour, last_minute = (int(part) for part in found.groups())
    return Window(first_hour * 60 + first_minute, last_hour * 60 + last_minute)


def minute_of_day(clock: datetime, timezone: str) -> int | None:
    """The site's minute of the day; None: the clock is not set. A zone that is not known here counts as UTC."""
    if clock < _CLOCK_SET:
        return None
    try:
        local = clock.astimezone(ZoneInfo(timezone))
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        local = clock.astimezone(UTC)
    return local.hour * 60 + local.minute
