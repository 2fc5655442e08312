"""Sites that stopped reporting. The rule is pure; ``check`` holds it against the registry."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.alerts import incidents
from cloudside.registry.tables import Heartbeat, Site

KIND = "site-silent"

#: Phases in which a router is expected to report.
_REPORTING_PHASES = ("construction", "commissioning", "operation")


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life of a site: when, and how many seconds until the next was due."""

    site: str
    at: datetime
    interval_s: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between heartbeats by uplink, and how many may be missing."""

    wired_s: float
    mobile_s: float
    allowed: int


def interval_s(report: Mapping[str, Any], intervals: Intervals) -> float:
    """Seconds between heartbeats of the site that sent this one (cloudside.fleet.protocol.Heartbeat)."""
    uplink = report.get("uplink")
    kind = uplink.get("kind") if isinstance(uplink, Mapping) else uplink
    return intervals.mobile_s if kind == "mobile" else intervals.wired_s


def silent(signs: Iterable[Sign], now: datetime, *, allowed: int) -> list[Sign]:
    """Those whose last sign is older than ``allowed`` of their intervals."""
    return [sign for sign in signs if (now - sign.at).total_seconds() > allowed * sign.interval_s]


def check(session: Session, intervals: Intervals, now: datetime) -> None:
    """Open an incident for each silent site and close those of sites that are back, revoked or retired."""
    rows = session.execute(
        select(Heartbeat.site_id, Heartbeat.received_at, Heartbeat.report)
        .join(Site, Site.id == Heartbeat.site_id)
        .where(Site.revoked_at.is_(None), Site.phase.in_(_REPORTING_PHASES))
    )
    signs = [Sign(row.site_id, row.received_at, interval_s(row.report, intervals)) for row in rows]
    quiet = {sign.site: sign for sign in silent(signs, now, allowed=intervals.allowed)}
    for site, sign in quiet.items():
        params = {"last": f"{sign.at:%Y-%m-%d %H:%M:%S} UTC", "interval_s": round(sign.interval_s)}
        incidents.open_incident(session, KIND, site, params, now)
    for incident in incidents.open_incidents(session, KIND):
        if incident.subject not in quiet:
            incidents.close_incident(session, KIND, incident.subject, now)
