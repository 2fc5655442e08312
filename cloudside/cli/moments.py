"""Moments and lengths of time as people type them: a date, a date and a time in UTC, how long ago, how long."""

import re
from datetime import UTC, datetime, timedelta

from cloudside.errors import InputError

_AGO = re.compile(r"(\d{1,5})([dhm])")
_LENGTH = re.compile(r"(?:(\d{1,3})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}


def moment(given: str, *, now: datetime) -> datetime:
    """``2026-12-24``, ``2026-12-24 08:00`` or ``7d``, ``2h``, ``30m`` ago. Raises InputError."""
    if ago := _AGO.fullmatch(given.strip()):
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        found = datetime.fromisoformat(given.strip())
    except ValueError:
        raise InputError("cli.bad-moment-or-ago", text=given[:40]) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def past(given: str, *, now: datetime) -> datetime:
    """The same where all before is forgotten: a slip of the year must not take everything. Raises InputError."""
    found = moment(given, now=now)
    if found > now:
        raise InputError("cli.moment-not-past", text=given[:40])
    return found


def duration(given: str) -> timedelta:
    """``2h``, ``30m``, ``1d12h``. Raises InputError: no length of time, or none at all."""
    found = _LENGTH.fullmatch(given.strip().lower())
    days, hours, minutes = (int(part or 0) for part in found.groups()) if found is not None else (0, 0, 0)
    if not days and not hours and not minutes:
        raise InputError("cli.bad-duration", text=given[:40])
    return timedelta(days=days, hours=hours, minutes=minutes)
