"""The offer in the answer to a heartbeat, and keeping what a router says of its firmware. One recording session.

Level-triggered: a site whose turn it is finds its offer in each answer, until its target is settled or its rollout ends
or halts. Nothing is decided here; whose turn it is, the worker decided.
"""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from cloudside.fleet.protocol import FirmwareOffer, FirmwareState, Heartbeat
from cloudside.fleet.rollouts.model import read_plan
from cloudside.registry import releases, rollouts
from cloudside.registry.callers import OPERATOR


def answer(session: Session, heartbeat: Heartbeat, *, site_id: str, now: datetime) -> FirmwareOffer | None:
    """Keep what the router says it runs; what it is to run, if it is its turn."""
    if heartbeat.firmware is None:
        return None  # its firmware is not ours to change
    releases.record_state(
        session, OPERATOR, site_id=site_id, report=_report(heartbeat.firmware, heartbeat, now), now=now
    )
    found = rollouts.offered_to(session, site_id)
    if found is None:
        return None
    rollout, target = found
    plan = read_plan(rollout.plan)
    return FirmwareOffer(
        release=target.path,
        counter=target.counter,
        rollout=rollout.id,
        consent=plan.terms.consent,
        rate_bytes_s=plan.terms.rate_bytes_s,
        budget_bytes=plan.terms.budget_bytes,
        permit=plan.terms.permit,
        window=plan.limits.window,
        visit_open=rollouts.open_visits(session, site_id, now),
    )


def _report(state: FirmwareState, heartbeat: Heartbeat, now: datetime) -> releases.Report:
    # A router may claim any age; a year is as good as longer.
    since = now - timedelta(seconds=max(0.0, min(state.since_s, 366 * 86_400.0)))
    return releases.Report(
        hardware=state.hardware,
        version=state.version,
        counter=state.counter,
        slot=state.slot,
        stage=state.stage,
        release=state.release,
        rollout=state.rollout,
        progress_pct=state.progress_pct,
        bytes_fetched=state.bytes_fetched,
        since=since,
        problem=None if state.problem is None else state.problem.model_dump(mode="json"),
        modules=[one.model_dump(mode="json") for one in heartbeat.modules],
    )
