"""Statements and validities as a policy file would write them: for answers, so that people can copy what they read."""

from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from zoneinfo import ZoneInfo

from rules.model import Validity
from rules.validity import DAYS

_DAY_MIN = 24 * 60


def statement_line(source: str, destination: str, services: Iterable[str]) -> str:
    """One statement, ready to stand under ``allow:``."""
    listed = list(services)
    inner = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    return f"- {{from: {source}, to: {destination}, services: {inner}}}"


def moment_in(zone: str, at: datetime) -> str:
    """An instant as the zone's wall clock shows it, with the zone's name."""
    return f"{at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M} {zone}"


def moment_written(zone: str, at: datetime | None) -> str:
    """An instant as ``valid`` has it; nothing for None."""
    return "" if at is None else f"{at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}"


def hours_written(validity: Validity) -> str:
    """The weekly hours, days with equal hours put together: ``mon-fri 08:00-18:00, sat 09:00-12:00``."""
    by_times: dict[tuple[int, int], list[int]] = {}
    for hours in sorted(validity.weekly, key=lambda one: (one.start_min, one.end_min, one.day)):
        by_times.setdefault((hours.start_min, hours.end_min), []).append(hours.day)
    found = [(days, _times(start, end)) for (start, end), listed in by_times.items() for days in _runs(listed)]
    return ", ".join(f"{_days(*days)} {times}" for days, times in sorted(found))


def _runs(days: list[int]) -> list[tuple[int, int]]:
    """First and last of each unbroken run of days."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(set(days))), key=lambda item: item[1] - item[0])]
    return [(run[0][1], run[-1][1]) for run in runs]


def _days(first: int, last: int) -> str:
    if (first, last) == (0, len(DAYS) - 1):
        return "daily"
    return DAYS[first] if first == last else f"{DAYS[first]}-{DAYS[last]}"


def _times(start_min: int, end_min: int) -> str:
    end = end_min - _DAY_MIN if end_min > _DAY_MIN else end_min
    return f"{start_min // 60:02}:{start_min % 60:02}-{end // 60:02}:{end % 60:02}"
