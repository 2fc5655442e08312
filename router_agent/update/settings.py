"""The settings of updates, names that begin with ``update.``. Pure. The cloud has the same table for its own checks.

update.health_s    600    for how long a new release must be healthy before it is kept
update.reach_s     300    how long it may take after its boot until it is
update.window      ""     HH:MM-HH:MM, when the router may restart for an update; the offer's counts before it
"""

from dataclasses import dataclass, replace

from router_agent.update import window

PREFIX = "update."

HEALTH_LIMITS_S = (5.0, 3600.0)
#: The cloud takes no less any more; a site that was told less before is not without settings for that.
HEALTH_LEAST_S = 30.0
REACH_LIMITS_S = (30.0, 3600.0)


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """What is in force."""

    health_s: float = 600.0
    reach_s: float = 300.0
    window: str = ""


def changed(settings: UpdateSettings, name: str, value: object) -> UpdateSettings:
    """The settings with one value set. Raises ValueError: the name is unknown or the value does not fit."""
    match name:
        case "update.health_s":
            return replace(settings, health_s=max(HEALTH_LEAST_S, _seconds(value, *HEALTH_LIMITS_S)))
        case "update.reach_s":
            return replace(settings, reach_s=_seconds(value, *REACH_LIMITS_S))
        case "update.window":
            if not isinstance(value, str):
                raise ValueError
            window.parse(value)
            return replace(settings, window=value)
        case _:
            raise ValueError


def _seconds(value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError
    return float(value)
