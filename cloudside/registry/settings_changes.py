"""Changes of settings to many sites: what is wanted, and what became of it at each site. The worker takes the steps."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Heartbeat, SettingsChange, SettingsChangeSite, Site

REASON_MAX_CHARS = 500


class ChangeState(StrEnum):
    """Where a change stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DONE = "done"


#: What a person or the worker may do. Whatever is not in here is refused.
_TRANSITIONS: dict[ChangeState, frozenset[ChangeState]] = {
    ChangeState.RUNNING: frozenset({ChangeState.PAUSED, ChangeState.STOPPED, ChangeState.CANCELLED, ChangeState.DONE}),
    ChangeState.PAUSED: frozenset({ChangeState.RUNNING, ChangeState.STOPPED, ChangeState.CANCELLED}),
    ChangeState.STOPPED: frozenset({ChangeState.RUNNING, ChangeState.CANCELLED}),
    ChangeState.CANCELLED: frozenset(),
    ChangeState.DONE: frozenset(),
}
ENDED = frozenset({ChangeState.CANCELLED, ChangeState.DONE})


class SiteState(StrEnum):
    """Where one site of a change stands. STATED: the router is to take it up; WITHDRAWN: taken back before it did;
    MISSED: it did not report in time; SUPERSEDED: somebody changed the site's settings meanwhile."""

    WAITING = "waiting"
    STATED = "stated"
    APPLIED = "applied"
    REVERTED = "reverted"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    MISSED = "missed"


def add(
    session: Session,
    caller: Caller,
    *,
    site_ids: Sequence[str],
    changes: Mapping[str, Any],
    reason: str,
    author: str,
    stagger: int,
    every_s: int,
    stop_after: int,
    until: datetime,
    now: datetime,
) -> SettingsChange:
    """Begin a change at these sites. Raises InputError: one of them is unknown, or there is none."""
    if not site_ids:
        raise InputError("settings.no-sites")
    known = {site.id for site in sites.every(session, caller)}
    for site_id in site_ids:
        if site_id not in known:
            sites.get(session, caller, site_id)  # raises, and says which are near
    change = SettingsChange(
        tenant_id=caller.tenant,
        changes=dict(changes),
        reason=reason[:REASON_MAX_CHARS],
        author=author[:100],
        created_at=now,
        state=ChangeState.RUNNING.value,
        stagger=stagger,
        every_s=every_s,
        stop_after=stop_after,
        until=until,
        ended_at=None,
        problem=None,
    )
    session.add(change)
    session.flush()
    for site_id in dict.fromkeys(site_ids):
        session.add(SettingsChangeSite(change_id=change.id, site_id=site_id, state=SiteState.WAITING.value))
    session.flush()
    return change


def visible(caller: Caller) -> Select[SettingsChange]:
    """All changes that exist for the caller, newest first. A tenant sees its own, not those that an operator made."""
    query = select(SettingsChange).order_by(SettingsChange.id.desc())
    return query if caller.tenant is None else query.where(SettingsChange.tenant_id == caller.tenant)


def every(session: Session, caller: Caller, *, most: int) -> list[SettingsChange]:
    """The newest changes."""
    return list(session.scalars(visible(caller).limit(most)))


def get(session: Session, caller: Caller, change_id: int) -> SettingsChange:
    """One change. Raises InputError: unknown, or another tenant's."""
    found = session.scalar(visible(caller).where(SettingsChange.id == change_id))
    if found is None:
        raise InputError("settings.unknown-change", change=change_id)
    return found


def running(session: Session, caller: Caller) -> list[SettingsChange]:
    """Those that the worker takes on, oldest first: paused and stopped ones too, whose sites may still report."""
    query = visible(caller).where(SettingsChange.state.not_in([state.value for state in ENDED]))
    return list(session.scalars(query.order_by(None).order_by(SettingsChange.id)))


def site_rows(
    session: Session, caller: Caller, change_id: int, *, states: Sequence[SiteState] = ()
) -> list[SettingsChangeSite]:
    """The sites of a change, by name; only those in these states, if any are given. Raises InputError: unknown."""
    change = get(session, caller, change_id)
    query = select(SettingsChangeSite).where(SettingsChangeSite.change_id == change.id)
    if states:
        query = query.where(SettingsChangeSite.state.in_([state.value for state in states]))
    return list(session.scalars(query.order_by(SettingsChangeSite.site_id)))


def counts(session: Session, caller: Caller, change_id: int) -> dict[SiteState, int]:
    """How many sites are in each state. Raises InputError: unknown."""
    change = get(session, caller, change_id)
    query = select(SettingsChangeSite.state, func.count()).where(SettingsChangeSite.change_id == change.id)
    found = {SiteState(state): count for state, count in session.execute(query.group_by(SettingsChangeSite.state))}
    return {state: found.get(state, 0) for state in SiteState}


def last_stated(session: Session, caller: Caller, change_id: int) -> datetime | None:
    """When the newest step was taken. Raises InputError: unknown."""
    change = get(session, caller, change_id)
    newest = select(SettingsChangeSite.stated_at).where(
        SettingsChangeSite.change_id == change.id, SettingsChangeSite.stated_at.is_not(None)
    )
    return session.scalar(newest.order_by(SettingsChangeSite.stated_at.desc()).limit(1))


def ready(
    session: Session,
    caller: Caller,
    change_id: int,
    *,
    most: int,
    wired_since: datetime,
    mobile_since: datetime,
    mobile_phases: frozenset[str],
) -> list[SettingsChangeSite]:
    """Waiting sites that report now, and whose line may carry a change: on a mobile one only in ``mobile_phases``.

    Raises InputError: unknown change.
    """
    change = get(session, caller, change_id)
    uplink = Heartbeat.report["uplink"]["kind"].as_string()
    reports = or_(
        (uplink != "mobile") & (Heartbeat.received_at >= wired_since),
        (uplink == "mobile") & (Heartbeat.received_at >= mobile_since) & Site.phase.in_(sorted(mobile_phases)),
    )
    query = (
        select(SettingsChangeSite)
        .join(Site, Site.id == SettingsChangeSite.site_id)
        .join(Heartbeat, Heartbeat.site_id == Site.id)
        .where(
            SettingsChangeSite.change_id == change.id,
            SettingsChangeSite.state == SiteState.WAITING.value,
            Site.revoked_at.is_(None),
            reports,
        )
        .order_by(SettingsChangeSite.site_id)
        .limit(most)
    )
    return list(session.scalars(query))


def move(
    session: Session,
    caller: Caller,
    *,
    change_id: int,
    state: ChangeState,
    now: datetime,
    problem: Mapping[str, Any] | None = None,
) -> SettingsChange:
    """Put a change into another state. Raises InputError: unknown, or not from the state that it is in."""
    change = get(session, caller, change_id)
    if state not in _TRANSITIONS[ChangeState(change.state)]:
        raise InputError("settings.change-transition", change=change_id, found=change.state, wanted=state.value)
    change.state = state.value
    change.problem = None if problem is None else dict(problem)
    change.ended_at = now if state in ENDED else None
    session.flush()
    return change


def resume(
    session: Session, caller: Caller, *, change_id: int, more_failures: int | None, now: datetime
) -> SettingsChange:
    """Go on with a change that was paused or stopped; ``more_failures``: as many sites may fail from now on as before,
    or so many. Raises InputError: unknown, or it is not paused or stopped.
    """
    change = move(session, caller, change_id=change_id, state=ChangeState.RUNNING, now=now)
    found = counts(session, caller, change_id)
    so_far = found[SiteState.REVERTED]
    change.stop_after = so_far + (more_failures or max(1, change.stop_after - so_far))
    session.flush()
    return change
