"""A heartbeat arrives: keep it, note what became of the settings, say what the cloud wants.

Level-triggered: every heartbeat states the router's whole situation and every answer the whole wish, so a lost one of
either costs an interval and nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.fleet import requests
from cloudside.fleet.protocol import DesiredSettings, Heartbeat, HeartbeatAnswer, LogRequest, Problem
from cloudside.fleet.rollouts import offers
from cloudside.registry import history, log_requests, reports, settings, sites
from cloudside.registry.addresses import Address
from cloudside.registry.callers import OPERATOR
from cloudside.registry.settings import State
from cloudside.registry.tables import Settings

#: Most log requests answered in one heartbeat; the rest wait for the next.
LOG_REQUESTS_AT_ONCE = 4

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds: between heartbeats by uplink, and to reach the cloud after a settings change."""

    wired_s: float
    mobile_s: float
    confirm_s: float


def receive(
    session: Session, heartbeat: Heartbeat, *, site_id: str, source: Address, intervals: Intervals, now: datetime
) -> HeartbeatAnswer:
    """Keep the heartbeat of an authenticated site and answer it. One recording session."""
    reports.record_heartbeat(
        session,
        OPERATOR,
        site_id=site_id,
        received_at=now,
        source=source,
        report=heartbeat.model_dump(mode="json"),
    )
    _note_settings(session, site_id, heartbeat)
    _note_problem(session, site_id, heartbeat, now)
    waiting = log_requests.waiting(session, OPERATOR, site_id)[:LOG_REQUESTS_AT_ONCE]
    mobile = heartbeat.uplink.kind == "mobile"
    asked = requests.of_site(session, heartbeat, site_id=site_id, now=now)
    return HeartbeatAnswer(
        heartbeat_s=requests.interval_s(
            intervals.mobile_s if mobile else intervals.wired_s, mobile=mobile, attended=asked.attended
        ),
        settings=_desired(
            settings.versions(session, OPERATOR, site_id), heartbeat.settings.version, intervals.confirm_s
        ),
        log_requests=[LogRequest(id=request.id, lines=request.lines) for request in waiting],
        timezone=sites.get(session, OPERATOR, site_id).timezone,
        log_pulls=asked.log_pulls,
        commands=asked.commands,
        firmware=offers.answer(session, heartbeat, site_id=site_id, now=now),
    )


def _note_problem(session: Session, site_id: str, heartbeat: Heartbeat, now: datetime) -> None:
    """Keep the first of what troubles the router beyond the next heartbeat: it says why a site was away."""
    for found in heartbeat.problems[:1]:
        seen = history.Seen(site_id, found.key, found.params, now)
        history.record_problems(session, OPERATOR, [seen], seen_by=history.ROUTER)


def _note_settings(session: Session, site_id: str, heartbeat: Heartbeat) -> None:
    state = heartbeat.settings
    if state.reverted_version is not None:
        problem = (state.problem or Problem(key="agent.settings-reverted")).model_dump(mode="json")
        with _ignored(site_id):
            settings.mark_reverted(session, OPERATOR, site_id=site_id, version=state.reverted_version, problem=problem)
    if state.version > 0:  # 0: factory settings
        with _ignored(site_id):
            settings.mark_applied(session, OPERATOR, site_id=site_id, version=state.version)


@contextmanager
def _ignored(site_id: str) -> Iterator[None]:
    # A router restored from an old image, or an older registry: what it runs now is in its heartbeat anyway.
    try:
        yield
    except InputError as error:
        _log.warning("settings report ignored", site=site_id, key=error.key)


def _desired(versions: list[Settings], in_force: int, confirm_s: float) -> DesiredSettings | None:
    """The newest version that was not undone, if the router does not have it. ``versions`` newest first."""
    wanted = next((row for row in versions if row.state != State.REVERTED.value), None)
    if wanted is None or wanted.version == in_force:
        return None
    return DesiredSettings(version=wanted.version, values=wanted.values, confirm_s=confirm_s)
