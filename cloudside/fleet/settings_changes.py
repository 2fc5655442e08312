"""Takes the steps of settings changes to many sites, in `kyoten worker`.

Level-triggered: a step may come late or twice. Each change is one writing session, so that a worker that ends in the
middle leaves it as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.orm import Session

from cloudside.access.refusal import MOBILE_PHASES
from cloudside.config import Web
from cloudside.fleet import settings_steps
from cloudside.fleet.settings_steps import Pace, Stated
from cloudside.registry import settings, settings_changes
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.settings import State
from cloudside.registry.settings_changes import ChangeState, SiteState
from cloudside.registry.tables import SettingsChange, SettingsChangeSite

#: A site whose last heartbeat is older than so many intervals is away.
AWAY_AFTER_INTERVALS = 3
#: A router that tries a change for the time it was granted, and again that long to come back with the old settings,
#: reports within this many seconds more.
SLACK_S = 30.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: how often routers report, on a wired and on a mobile line, and how long they try a change."""

    wired_s: float
    mobile_s: float
    confirm_s: float

    @classmethod
    def of(cls, web: Web) -> "Times":
        """Those of the configuration."""
        return cls(web.heartbeat_wired_s, web.heartbeat_mobile_s, web.settings_confirm_s)

    @property
    def patience_s(self) -> float:
        """How long a site may say nothing of a change that it was told."""
        return self.mobile_s + 2 * self.confirm_s + SLACK_S


def step_all(database: Database, times: Times, now: datetime) -> None:
    """One step of every change that is under way. Raises UnavailableError."""
    with database.read() as session:
        changes = [row.id for row in settings_changes.running(session, OPERATOR)]
    for change_id in changes:
        with database.write() as session:
            step(session, change_id, times, now=now)


def step(session: Session, change_id: int, times: Times, *, now: datetime) -> None:
    """Note what became of the sites that were told; then tell the next ones, stop, or end. Raises InputError."""
    change = settings_changes.get(session, OPERATOR, change_id)
    rows = settings_changes.site_rows(session, OPERATOR, change_id, states=(SiteState.STATED,))
    counted = settings_changes.counts(session, OPERATOR, change_id)
    told = [_told(session, row, now) for row in rows]
    if now >= change.until:
        _give_up_waiting(session, change, now)
        withdraw(session, change_id, now=now)
        counted[SiteState.WAITING] = 0
    following = settings_steps.following(
        Pace(change.stagger, change.every_s, change.stop_after, times.patience_s),
        told,
        reverted=counted[SiteState.REVERTED],
        waiting=counted[SiteState.WAITING],
        last_stated=settings_changes.last_stated(session, OPERATOR, change_id),
        now=now,
    )
    state = ChangeState(change.state)
    if state is ChangeState.RUNNING and following.stop:
        problem = {"key": "settings.change-stopped", "params": {"failures": following.failures}}
        settings_changes.move(
            session, OPERATOR, change_id=change_id, state=ChangeState.STOPPED, now=now, problem=problem
        )
        withdraw(session, change_id, now=now)
        _log.warning("settings change stopped", change=change_id, failures=following.failures)
    elif state is ChangeState.RUNNING and following.over:
        settings_changes.move(session, OPERATOR, change_id=change_id, state=ChangeState.DONE, now=now)
    elif state is ChangeState.RUNNING and following.room:
        _tell_next(session, change, following.room, times, now)


def withdraw(session: Session, change_id: int, *, now: datetime) -> int:
    """Take the change back from sites that were told and have not said anything yet; how many."""
    taken = 0
    problem = {"key": "settings.withdrawn", "params": {"change": change_id}}
    for row in settings_changes.site_rows(session, OPERATOR, change_id, states=(SiteState.STATED,)):
        if row.version is None:
            continue
        if settings.withdraw(session, OPERATOR, site_id=row.site_id, version=row.version, problem=problem):
            row.state, row.ended_at = SiteState.WITHDRAWN.value, now
            taken += 1
    session.flush()
    return taken


def _told(session: Session, row: SettingsChangeSite, now: datetime) -> Stated:
    """Read what became of a site that was told, and write it down."""
    outcome, problem = _outcome(session, row)
    if outcome is not None:
        row.state, row.ended_at, row.problem = outcome.value, now, problem
        session.flush()
    return Stated(row.site_id, row.stated_at or now, outcome)


def _outcome(session: Session, row: SettingsChangeSite) -> tuple[SiteState | None, dict[str, Any] | None]:
    if row.version is None:
        return SiteState.APPLIED, None
    version = settings.get(session, OPERATOR, row.site_id, row.version)
    if version.state == State.APPLIED.value:
        return SiteState.APPLIED, None
    if version.state == State.REVERTED.value:
        return SiteState.REVERTED, version.problem
    newest = settings.latest(session, OPERATOR, row.site_id)
    if newest is not None and newest.version > row.version:
        return SiteState.SUPERSEDED, None
    return None, None


def _tell_next(session: Session, change: SettingsChange, room: int, times: Times, now: datetime) -> None:
    ready = settings_changes.ready(
        session,
        OPERATOR,
        change.id,
        most=room,
        wired_since=now - timedelta(seconds=AWAY_AFTER_INTERVALS * times.wired_s),
        mobile_since=now - timedelta(seconds=AWAY_AFTER_INTERVALS * times.mobile_s),
        mobile_phases=MOBILE_PHASES,
    )
    for row in ready:
        row.stated_at = now
        row.version = _state(session, change, row.site_id, change.changes, now)
        row.state = SiteState.STATED.value
        if row.version is None:
            row.state, row.ended_at = SiteState.APPLIED.value, now
    session.flush()


def _state(
    session: Session, change: SettingsChange, site_id: str, changes: Mapping[str, Any], now: datetime
) -> int | None:
    """The version that the site is to take up; None: its settings are so already."""
    before = settings.wanted(session, OPERATOR, site_id)
    after = settings.changed(before, changes)
    if after == before:
        return None
    author = f"{change.author} (change {change.id})"
    return settings.add_version(session, OPERATOR, site_id=site_id, values=after, author=author, now=now).version


def _give_up_waiting(session: Session, change: SettingsChange, now: datetime) -> None:
    for row in settings_changes.site_rows(session, OPERATOR, change.id, states=(SiteState.WAITING,)):
        row.state, row.ended_at = SiteState.MISSED.value, now
    session.flush()
