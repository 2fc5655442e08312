"""The fleet at one look: columns, not objects, because there are 10,000 sites and a person waits."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import String, cast, func, select
from sqlalchemy.orm import Session

from cloudside.registry import history
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Certificate, Heartbeat, Site, Tunnel


@dataclass(frozen=True, slots=True)
class SiteRow:
    """A site as stated."""

    site: str
    tenant: str
    phase: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class TunnelRow:
    """A site's tunnel as a gateway last saw it."""

    site: str
    tenant: str
    gateway: str
    up: bool
    since: datetime
    peer: str
    suite: str
    ike_version: int


def sites(session: Session, caller: Caller) -> list[SiteRow]:
    """All sites of the caller, by name."""
    query = select(Site.id, Site.tenant_id, Site.phase, Site.revoked_at.is_not(None)).order_by(Site.id)
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    return [SiteRow(*row) for row in session.execute(query)]


def tunnels(
    session: Session, caller: Caller, *, gateway: str | None = None, up: bool | None = None, of: Collection[str] = ()
) -> list[TunnelRow]:
    """Tunnels of the caller's sites, by site and gateway: all, or those of a gateway, in a state, of named sites."""
    query = (
        select(
            Tunnel.site_id, Site.tenant_id, Tunnel.gateway, Tunnel.up, Tunnel.since, Tunnel.peer, Tunnel.suite,
            Tunnel.ike_version,
        )
        .join(Site, Site.id == Tunnel.site_id)
        .order_by(Tunnel.site_id, Tunnel.gateway)
    )  # fmt: skip
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    if gateway is not None:
        query = query.where(Tunnel.gateway == gateway)
    if up is not None:
        query = query.where(Tunnel.up.is_(up))
    if not of:
        return [TunnelRow(*row) for row in session.execute(query)]
    parts = (session.execute(query.where(Tunnel.site_id.in_(names))) for names in history.chunks(of))
    return [TunnelRow(*row) for part in parts for row in part]


def connected(session: Session, caller: Caller) -> list[tuple[str, str]]:
    """Site and gateway of each tunnel that is up: no more, because they are nearly all."""
    query = select(Tunnel.site_id, Tunnel.gateway).where(Tunnel.up)
    if caller.tenant is not None:
        query = query.join(Site, Site.id == Tunnel.site_id).where(Site.tenant_id == caller.tenant)
    return [(site, gateway) for site, gateway in session.execute(query)]


def problems_reported(session: Session, caller: Caller) -> dict[str, tuple[datetime, list[dict[str, Any]]]]:
    """What routers say troubles them, of those that say anything: when, and the list."""
    listed = Heartbeat.report["problems"]
    query = select(Heartbeat.site_id, Heartbeat.received_at, listed).where(
        cast(listed, String).is_not(None), cast(listed, String) != "[]"
    )
    if caller.tenant is not None:
        query = query.join(Site, Site.id == Heartbeat.site_id).where(Site.tenant_id == caller.tenant)
    return {site: (at, found) for site, at, found in session.execute(query) if isinstance(found, list)}


def data_used(session: Session, caller: Caller, *, percent: int) -> dict[str, tuple[int, int]]:
    """Sites whose mobile line has used so much of its budget: bytes used this month and the budget."""
    modem = Heartbeat.report["modem"]
    used, budget = modem["data_used_bytes"].as_integer(), modem["data_budget_bytes"].as_integer()
    query = select(Heartbeat.site_id, used, budget).where(budget > 0, 100 * used >= percent * budget)
    if caller.tenant is not None:
        query = query.join(Site, Site.id == Heartbeat.site_id).where(Site.tenant_id == caller.tenant)
    return {site: (spent or 0, limit) for site, spent, limit in session.execute(query)}


def certificates_ending(session: Session, caller: Caller, *, before: datetime) -> Mapping[str, datetime]:
    """Sites whose last valid certificate ends before then."""
    ends = func.max(Certificate.not_after)
    query = (
        select(Certificate.subject, ends)
        .where(Certificate.kind == "site", Certificate.revoked_at.is_(None))
        .group_by(Certificate.subject)
        .having(ends < before)
    )
    if caller.tenant is not None:
        query = query.join(Site, Site.id == Certificate.subject).where(Site.tenant_id == caller.tenant)
    return {site: at for site, at in session.execute(query) if at is not None}
