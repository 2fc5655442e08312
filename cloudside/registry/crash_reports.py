"""Crash reports of routers, the newest of each site. What is seen, not wanted: the audit log does not have them."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import names, sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import CrashReport

#: Reports that are kept of one site; a router that crashes all day pushes out its own older ones only.
KEPT = 50


def record(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    report_id: str,
    kind: str,
    process: str,
    summary: str,
    first_at: datetime,
    last_at: datetime,
    count: int,
    versions: Mapping[str, str],
    text: str,
    now: datetime,
) -> CrashReport:
    """Keep a report in place of an older one with its id. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    report = session.get(CrashReport, (site.id, report_id)) or CrashReport(site_id=site.id, id=report_id)
    report.kind, report.process, report.summary, report.text = kind, process, summary, text
    report.first_at, report.last_at, report.count = first_at, last_at, count
    report.versions = dict(versions)
    report.received_at = now
    session.add(report)
    session.flush()
    old = select(CrashReport).where(CrashReport.site_id == site.id).order_by(CrashReport.received_at.desc())
    for one in session.scalars(old.offset(KEPT)):
        session.delete(one)
    session.flush()
    return report


def of_site(session: Session, caller: Caller, site_id: str) -> list[CrashReport]:
    """A site's reports, the newest first. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    query = select(CrashReport).where(CrashReport.site_id == site.id)
    return list(session.scalars(query.order_by(CrashReport.last_at.desc(), CrashReport.id)))


def get(session: Session, caller: Caller, site_id: str, report_id: str) -> CrashReport:
    """The report whose id begins so. Raises InputError: unknown site or report, or more than one."""
    every = of_site(session, caller, site_id)
    found = [one for one in every if report_id and one.id.startswith(report_id)]
    if len(found) != 1:
        known = names.closest(report_id, [one.id[:8] for one in every])
        raise InputError("crashes.unknown-report", site=site_id, report=report_id[:64], known=known)
    return found[0]
