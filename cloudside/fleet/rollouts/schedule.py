"""Whose turn it is: maintenance windows, who is there, pairs, how many at once. Pure.

A window is in the site's own time: 22:00-05:00 is night wherever the building stands. It is checked before a site's
turn, and handed to the router as well, which decides itself when it restarts: one that needs two nights to fetch the
release does so.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from math import ceil
from zoneinfo import ZoneInfo

from cloudside.errors import InputError
from cloudside.fleet.rollouts.machine import HARMED, TargetState
from cloudside.fleet.rollouts.model import Limits, Seen, Target

#: How many of a ring are at work at once where nobody says.
AT_ONCE_SHARE = 0.2
#: A site whose partner has just been updated waits so long, in seconds.
PAIR_REST_S = 3600.0
#: A partner that was not heard for so long is no partner any more: it holds nobody up.
PAIR_GONE_S = 7 * 86_400.0
#: Stages (FirmwareState) in which a router is about to restart, or has, on whoever's word.
RESTARTING = frozenset({"installing", "installed", "trial"})

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)\Z", re.ASCII)


class Turn(Enum):
    """Whether a waiting site may have its turn."""

    READY = "ready"
    #: Not now, but by itself soon: its window, its partner at work. The ring waits for it.
    LATER = "later"
    #: Offline, or its partner is in trouble: the ring does not wait for it.
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What decides about one site beside itself: all targets as they are now, what was seen of all sites, who belongs
    together (word -> sites), and who is at work in another rollout."""

    targets: Mapping[str, Target]
    seen: Mapping[str, Seen]
    partners: Mapping[str, Collection[str]]
    busy: Collection[str]
    now: datetime


def check_window(text: str) -> str:
    """A window as people write it, ``22:00-05:00``; empty: any time. Raises InputError."""
    if text and (_WINDOW.match(text) is None or text[:5] == text[6:]):
        raise InputError("rollout.bad-window", window=text[:40])
    return text


def is_open(window: str, zone: str, now: datetime) -> bool:
    """Whether the window is open in that time zone."""
    found = _WINDOW.match(window)
    if found is None:
        return True
    start, end = (int(found[one]) * 60 + int(found[one + 1]) for one in (1, 3))
    local = now.astimezone(_zone(zone))
    minute = local.hour * 60 + local.minute
    return start <= minute < end if start < end else minute >= start or minute < end


def turn(target: Target, limits: Limits, around: Surroundings) -> Turn:
    """Whether a waiting target may have its turn now."""
    seen = around.seen.get(target.site)
    if seen is None or (around.now - seen.well_at).total_seconds() > limits.offline_s:
        return Turn.AWAY
    found = Turn.READY if is_open(limits.window, target.zone, around.now) else Turn.LATER
    if target.exclusive:
        for partner in around.partners.get(target.exclusive, ()):
            if partner != target.site:
                other = _beside(partner, limits, around)
                if other is Turn.AWAY:
                    return Turn.AWAY
                found = other if found is Turn.READY else found
    return found


def at_once(limits: Limits, members: int) -> int:
    """How many sites of a ring with so many members may be at work at once."""
    return limits.at_once if limits.at_once is not None else max(1, ceil(AT_ONCE_SHARE * members))


def _beside(partner: str, limits: Limits, around: Surroundings) -> Turn:
    """Whether a site may be at work while its partner is as it is."""
    target, seen = around.targets.get(partner), around.seen.get(partner)
    if target is not None:
        if target.state is TargetState.OFFERED:
            return Turn.LATER
        if target.state in HARMED:
            return Turn.AWAY
    if partner in around.busy or (seen is not None and seen.stage in RESTARTING):
        return Turn.LATER
    if seen is not None:
        silent_s = (around.now - seen.well_at).total_seconds()
        if limits.offline_s < silent_s and (around.now - seen.heard_at).total_seconds() <= PAIR_GONE_S:
            return Turn.AWAY
    if target is not None and target.state is TargetState.UPDATED and target.offered_at and target.settled_at:
        rested = (around.now - target.settled_at).total_seconds() >= PAIR_REST_S
        return Turn.READY if rested else Turn.LATER
    return Turn.READY


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
