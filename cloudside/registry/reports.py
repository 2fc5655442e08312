"""What was last seen: heartbeats of routers, tunnels and state of gateways. Newest only; history is not kept here."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.registry import sites
from cloudside.registry.addresses import Address
from cloudside.registry.callers import Caller
from cloudside.registry.tables import GatewayState, Heartbeat, Site, Tunnel


def record_heartbeat(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    received_at: datetime,
    source: Address,
    report: Mapping[str, Any],
) -> Heartbeat:
    """Keep a site's heartbeat in place of the one before. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    heartbeat = session.get(Heartbeat, site.id) or Heartbeat(site_id=site.id)
    heartbeat.received_at = received_at
    heartbeat.source = source
    heartbeat.report = dict(report)
    session.add(heartbeat)
    session.flush()
    return heartbeat


def heartbeats(session: Session, caller: Caller) -> dict[str, Heartbeat]:
    """The last heartbeat by site; sites that never reported are not in it."""
    query = select(Heartbeat).join(Site, Site.id == Heartbeat.site_id)
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    return {heartbeat.site_id: heartbeat for heartbeat in session.scalars(query)}


def heartbeat(session: Session, caller: Caller, site_id: str) -> Heartbeat | None:
    """A site's last heartbeat; None: it never reported. Raises InputError: unknown site."""
    return session.get(Heartbeat, sites.get(session, caller, site_id).id)


def record_tunnel(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    gateway: str,
    up: bool,
    since: datetime,
    peer: str = "",
    suite: str = "",
) -> Tunnel:
    """Keep what a gateway sees of a site's tunnel. ``since`` moves only when ``up`` changes.

    Raises InputError: unknown site.
    """
    site = sites.get(session, caller, site_id)
    tunnel = session.get(Tunnel, (site.id, gateway)) or Tunnel(site_id=site.id, gateway=gateway)
    if tunnel.up != up:
        tunnel.up = up
        tunnel.since = since
    tunnel.peer = peer[:60]
    tunnel.suite = suite[:100]
    session.add(tunnel)
    session.flush()
    return tunnel


def tunnels(session: Session, caller: Caller, *, gateway: str | None = None) -> list[Tunnel]:
    """Tunnels that exist for the caller, by site and gateway."""
    query = select(Tunnel).join(Site, Site.id == Tunnel.site_id).order_by(Tunnel.site_id, Tunnel.gateway)
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    if gateway is not None:
        query = query.where(Tunnel.gateway == gateway)
    return list(session.scalars(query))


def record_gateway(
    session: Session,
    caller: Caller,
    *,
    name: str,
    seen_at: datetime,
    rule_set: str = "",
    dataplane: str = "",
    report: Mapping[str, Any] | None = None,
) -> GatewayState:
    """Keep what a gateway says of itself. Raises RefusedError: the caller is not the service itself."""
    caller.require_operator()
    state = session.get(GatewayState, name) or GatewayState(name=name)
    state.seen_at = seen_at
    state.rule_set = rule_set
    state.dataplane = dataplane
    state.report = dict(report or {"problems": []})
    session.add(state)
    session.flush()
    return state


def gateways(session: Session, caller: Caller) -> list[GatewayState]:
    """All gateways by name. They are shared by all tenants. Raises RefusedError: the caller is not an operator."""
    caller.require_operator()
    return list(session.scalars(select(GatewayState).order_by(GatewayState.name)))
