"""Limits of mail: who is near, who is over, and when it is over again. Pure.

An hour is a clock hour, a day the 24 clock hours with the running one, because that is what the queue counts while it
accepts. Whether mail over a limit is held or refused is decided there, in the accepting transaction; here it is told.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cloudside.mail.model import Action, Limit, Scope

#: From this part of a limit on there is a warning.
NEAR = 0.9


class Window(StrEnum):
    """What a limit counts over."""

    HOUR = "hour"
    DAY = "day"

    @property
    def hours(self) -> int:
        """How long it is."""
        return 1 if self is Window.HOUR else 24

    def start(self, hour: int) -> int:
        """The number of the clock hour that it begins with when it ends with ``hour``."""
        return hour + 1 - self.hours


class Level(StrEnum):
    """How a count stands against its limit."""

    WITHIN = "within"
    NEAR = "near"
    EXCEEDED = "exceeded"


@dataclass(frozen=True, slots=True)
class Crossing:
    """A limit that is nearly or wholly used up. ``start``: the first clock hour of the window."""

    scope: Scope
    name: str
    window: Window
    start: int
    count: int
    most: int
    action: Action
    level: Level


#: Recipients by name, of each scope, in the running hour or in the day that ends with it.
Counts = Mapping[Scope, Mapping[str, int]]


def level(count: int, most: int, action: Action) -> Level:
    """How ``count`` recipients stand against a limit of ``most``.

    Mail over a limit that refuses is not counted, so such a limit is exceeded when it is used up: the next mail is
    refused. With the others the mail after that one is the first that something happens to.
    """
    if count > most or (action is Action.REFUSE and count == most):
        return Level.EXCEEDED
    return Level.NEAR if count >= NEAR * most else Level.WITHIN


def crossings(limits: Iterable[Limit], hours: Counts, days: Counts, hour: int) -> list[Crossing]:
    """All limits that are near or exceeded in the windows that end with ``hour``."""
    found = []
    for limit in limits:
        for window, most, counts in ((Window.HOUR, limit.hourly, hours), (Window.DAY, limit.daily, days)):
            count = counts.get(limit.scope, {}).get(limit.name, 0)
            if most is None or not count:
                continue
            stands = level(count, most, limit.action)
            if stands is not Level.WITHIN:
                start = window.start(hour)
                found.append(Crossing(limit.scope, limit.name, window, start, count, most, limit.action, stands))
    return found


def over(last_exceeded: int, hour: int) -> bool:
    """Whether a full clock hour has passed since the last one in which the limit was exceeded.

    For a limit of a day: in which the day that ended with it had exceeded it.
    """
    return hour - last_exceeded >= 2
