"""A change of settings to many sites: what comes next. Pure.

Sites are taken some at a time. The next ones are taken when those before have all reported what became of it and the
stagger's seconds are over. A site that undid the change, or that fell silent with it for longer than it needs to undo
it, counts as a failure; too many of them stop the change before the next site is touched. Sites that do not report now
are not stated: they would come back with a change that may have been stopped long ago. They are taken when they report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cloudside.registry.settings_changes import SiteState


@dataclass(frozen=True, slots=True)
class Pace:
    """``stagger`` sites at once, ``every_s`` seconds apart at least; ``stop_after`` failures end it. ``patience_s``:
    a site that was stated so long ago and has said nothing of it has failed."""

    stagger: int
    every_s: float
    stop_after: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class Stated:
    """A site that was told, and what is known of it. ``outcome`` None: nothing yet."""

    site_id: str
    stated_at: datetime
    outcome: SiteState | None


@dataclass(frozen=True, slots=True)
class Next:
    """What to do. ``room``: how many sites may be told now. ``failures``: sites that undid it or fell silent."""

    room: int
    failures: int
    stop: bool
    over: bool


def following(
    pace: Pace,
    stated: Sequence[Stated],
    *,
    reverted: int,
    waiting: int,
    last_stated: datetime | None,
    now: datetime,
) -> Next:
    """``stated``: sites that were told and whose outcome was not counted before; ``reverted``: how many undid it before
    these; ``waiting``: how many are still to be told."""
    patience = timedelta(seconds=pace.patience_s)
    silent = sum(one.outcome is None and now - one.stated_at > patience for one in stated)
    open_now = sum(one.outcome is None and now - one.stated_at <= patience for one in stated)
    failures = reverted + silent + sum(one.outcome is SiteState.REVERTED for one in stated)
    stop = failures >= pace.stop_after
    rested = last_stated is None or now - last_stated >= timedelta(seconds=pace.every_s)
    room = pace.stagger if rested and not open_now and not stop else 0
    undecided = sum(one.outcome is None for one in stated)
    return Next(room=room, failures=failures, stop=stop, over=not waiting and not undecided)
