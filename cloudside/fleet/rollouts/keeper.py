"""The worker's part: step every rollout that has not ended, keep what came of it, tell staff of a halt.

A step is worked out while nobody waits, on one consistent reading; it is written only if the rollout still stands as it
was read. Otherwise (a person paused it, another worker was faster) it is dropped: the next one comes in seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from cloudside.alerts import incidents
from cloudside.fleet.rollouts.machine import State, TargetState
from cloudside.fleet.rollouts.model import Rollout, Seen, Target, read_plan
from cloudside.fleet.rollouts.stepping import Scene, Step, step
from cloudside.fleet.rollouts.wishes import INCIDENT
from cloudside.registry import labels, releases, rollouts, tables
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database
from cloudside.registry.rollouts import SeenRow

#: Seconds between steps.
STEP_S = 15.0
#: A report that has not changed is written this often, so that people see that somebody looks.
REPORT_S = 60.0

_log = structlog.get_logger()


def step_all(database: Database, now: datetime) -> int:
    """One step of each rollout; returns how many changed. Raises what a step raised, after the others' turn."""
    with database.read() as session:
        names = [row.id for row in rollouts.unfinished(session, OPERATOR)]
    changed, failures = 0, []
    for name in names:
        try:
            changed += step_one(database, name, now)
        except Exception as error:  # one that cannot be stepped must not keep the others from halting
            _log.error("rollout-step-failed", rollout=name, reason=type(error).__name__)
            failures.append(error)
    if failures:
        raise failures[0]
    return changed


def step_one(database: Database, rollout_id: str, now: datetime) -> bool:
    """One step of one rollout; whether anything changed. Raises UnavailableError."""
    with database.read() as session:
        row = rollouts.get(session, OPERATOR, rollout_id)
        read, last = _stamp(session, row), rollouts.progress(session, OPERATOR, rollout_id)
        scene = _scene(session, row, last, now)
    done = step(scene)
    report = _told(done)
    is_news = bool(done.changed) or _moved(scene.rollout, done.rollout)
    if not is_news and last is not None and last.report == report and (now - last.at).total_seconds() < REPORT_S:
        return False
    with database.write() as session:
        row = rollouts.get(session, OPERATOR, rollout_id)
        if _stamp(session, row) != read:
            _log.info("rollout-step-dropped", rollout=rollout_id)
            return False
        _keep(session, row, done, now)
        rollouts.record_progress(session, rollout_id, report, now)
    if is_news:
        _log.info(
            "rollout-stepped", rollout=rollout_id, state=done.rollout.state.value, ring=done.rollout.ring,
            changed=len(done.changed), judged=done.report.judged, harmed=done.report.harmed,
        )  # fmt: skip
    return is_news


def _stamp(session: Session, row: tables.Rollout) -> tuple[object, ...]:
    """What must not have changed between reading and writing."""
    last = session.get(tables.RolloutProgress, row.id)
    return row.state, row.ring, row.plan, row.soak_since, None if last is None else last.at


def _scene(session: Session, row: tables.Rollout, last: tables.RolloutProgress | None, now: datetime) -> Scene:
    plan = read_plan(row.plan)
    background = 0.0 if last is None else float(last.report.get("background", 0.0))
    rollout = Rollout(
        id=row.id,
        state=State(row.state),
        plan=plan,
        ring=row.ring,
        began_at=max(row.created_at, plan.starts_at or row.created_at),
        soak_since=row.soak_since,
        background=background,
    )
    targets = {
        target.site_id: Target(
            site=target.site_id,
            ring=target.ring,
            state=TargetState(target.state),
            path=target.path,
            counter=target.counter,
            exclusive=target.exclusive,
            zone=target.timezone,
            offered_at=target.offered_at,
            settled_at=target.settled_at,
            cause=target.cause,
        )
        for target in rollouts.targets(session, OPERATOR, row.id)
    }
    partners = _partners(session, targets)
    others = {site for sites in partners.values() for site in sites} - set(targets)
    return Scene(
        rollout=rollout,
        targets=targets,
        seen={one.site: _seen(one) for one in rollouts.seen(session, row.id, others)},
        now=now,
        partners=partners,
        busy=rollouts.at_work(session, but=row.id),
        yanked=_is_yanked(session, row, targets.values()),
    )


def _partners(session: Session, targets: Mapping[str, Target]) -> dict[str, list[str]]:
    """Who excludes each other, as labels say now and as they said when the rollout was made."""
    found: dict[str, list[str]] = {}
    for site, word in labels.exclusive(session, OPERATOR).items():
        found.setdefault(word, []).append(site)
    for target in targets.values():
        if target.exclusive and target.site not in found.setdefault(target.exclusive, []):
            found[target.exclusive].append(target.site)
    return found


def _seen(row: SeenRow) -> Seen:
    well_at = row.heard_at if row.down_since is None else min(row.heard_at, row.down_since)
    return Seen(row.heard_at, well_at, row.counter, row.stage, row.release, row.rollout, row.problem)


def _is_yanked(session: Session, row: tables.Rollout, targets: Iterable[Target]) -> bool:
    """Whether a release that it gives to anybody was taken back."""
    paths = {target.path for target in targets}
    return any(
        one.path in paths and one.yanked_at is not None for one in releases.every(session, Caller(row.tenant_id))
    )


def _moved(before: Rollout, after: Rollout) -> bool:
    return replace(after, background=before.background, began_at=before.began_at) != before


def _keep(session: Session, row: tables.Rollout, done: Step, now: datetime) -> None:
    after = done.rollout
    row.state, row.ring, row.soak_since = after.state.value, after.ring, after.soak_since
    if after.state is State.FINISHED:
        row.ended_at = now
    if done.cause is not None:
        row.cause = dict(done.cause)
        incidents.open_incident(session, INCIDENT, row.id, _incident(row, done), now)
    session.flush()
    rollouts.record_targets(
        session,
        [
            {
                "rollout_id": row.id,
                "site_id": target.site,
                "ring": target.ring,
                "state": target.state.value,
                "offered_at": target.offered_at,
                "settled_at": target.settled_at,
                "cause": None if target.cause is None else dict(target.cause),
            }
            for target in done.changed.values()
        ],
    )


def _incident(row: tables.Rollout, done: Step) -> dict[str, Any]:
    cause = done.cause or {}
    return {
        **dict(cause.get("params", {})),
        "why_key": cause.get("key", ""),
        "version": row.version,
        "ring": done.rollout.ring + 1,
        "author": row.author,
    }


def _told(done: Step) -> dict[str, Any]:
    report = asdict(done.report)
    return {**report, "rings": [dict(ring) for ring in done.report.rings]}


def problems_of(session: Session, caller: Caller, rollout_id: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """What is wrong with sites of a rollout: site, state, cause. Raises InputError: unknown rollout."""
    return [
        (target.site_id, target.state, target.cause)
        for target in rollouts.targets(session, caller, rollout_id)
        if target.cause is not None and target.state in ("failed", "silent", "declined")
    ]
