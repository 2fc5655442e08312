"""When a statement holds: from, until, weekly hours in a zone. Pure: the instant is an argument.

Weekly hours are wall-clock times of their zone; on the day the clocks change they are as long as the wall clock says.
"""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from rules.model import Hours, Validity

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MIN = 24 * 60
#: The forms of a moment and of weekly hours.
MOMENT = re.compile(r"(20[0-9]{2})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2}))?")
WEEKLY = re.compile(
    rf"(daily|(?P<first>{'|'.join(DAYS)})(?:-(?P<last>{'|'.join(DAYS)}))?) "
    r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})"
)


def holds(validity: Validity, at: datetime) -> bool:
    """Whether the instant is in it. ``from`` and the beginning of hours are in, ``until`` and their end are not."""
    if validity.start is not None and at < validity.start:
        return False
    if validity.until is not None and at >= validity.until:
        return False
    return not validity.weekly or any(begin <= at < end for begin, end in _spans(validity, at, days=2))


def next_change(validity: Validity, at: datetime) -> datetime | None:
    """The next instant at which it begins or ends to hold; None if that is never."""
    now = holds(validity, at)
    bases = [at] if validity.start is None or validity.start <= at else [at, validity.start]
    edges = {edge for base in bases for span in _spans(validity, base, days=10) for edge in span}
    edges |= {edge for edge in (validity.start, validity.until) if edge is not None}
    return next((edge for edge in sorted(edges) if edge > at and holds(validity, edge) != now), None)


def _spans(validity: Validity, at: datetime, *, days: int) -> Iterable[tuple[datetime, datetime]]:
    """The weekly hours of so many days from the day before the instant on."""
    zone = ZoneInfo(validity.zone)
    first = at.astimezone(zone).date() - timedelta(days=1)
    for day in (first + timedelta(days=number) for number in range(days)):
        for hours in validity.weekly:
            if hours.day == day.weekday():
                yield _instant(day, hours.start_min, zone), _instant(day, hours.end_min, zone)


def _instant(day: date, minutes: int, zone: ZoneInfo) -> datetime:
    wall = datetime.combine(day, time()) + timedelta(minutes=minutes)
    return wall.replace(tzinfo=zone).astimezone(UTC)


def moment(text: str, zone: ZoneInfo) -> datetime:
    """``2026-11-01`` or ``2026-11-01 08:00`` in the zone. Raises ValueError."""
    found = MOMENT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    year, month, day, hour, minute = (int(part or 0) for part in found.groups())
    return datetime(year, month, day, hour, minute, tzinfo=zone).astimezone(UTC)


def weekly(text: str) -> list[Hours]:
    """``mon-fri 08:00-18:00``, ``sat 09:00-12:00``, ``daily 22:00-06:00`` (into the next day). Raises ValueError."""
    found = WEEKLY.fullmatch(text)
    if found is None:
        raise ValueError(text)
    hour, minute, end_hour, end_minute = (int(part) for part in found.groups()[3:])
    start, end = hour * 60 + minute, end_hour * 60 + end_minute
    if minute > 59 or end_minute > 59 or start >= _DAY_MIN or end > _DAY_MIN or start == end:
        raise ValueError(text)
    first = DAYS.index(found["first"] or "mon")
    last = DAYS.index(found["last"] or found["first"] or "sun")
    count = (last - first) % 7 + 1
    return [Hours((first + number) % 7, start, end if end > start else end + _DAY_MIN) for number in range(count)]
