"""What was last seen: heartbeats of routers, tunnels and state of gateways. Newest only; history is not kept here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from cloudside.registry import history, sites
from cloudside.registry.addresses import Address
from cloudside.registry.callers import Caller
from cloudside.registry.tables import GatewayState, Heartbeat, Site, Tunnel


@dataclass(frozen=True, slots=True)
class TunnelState:
    """A site's tunnel as one gateway sees it. ``ike_version`` 0: not said."""

    site_id: str
    up: bool
    since: datetime
    peer: str = ""
    suite: str = ""
    ike_version: int = 0


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


def record_tunnels(session: Session, caller: Caller, states: Iterable[TunnelState], *, gateway: str) -> frozenset[str]:
    """Keep many tunnels' states as they are given, ``since`` too; returns the sites that exist, the others are left
    out. Raises RefusedError: the caller is not the service itself.
    """
    caller.require_operator()
    wanted = {state.site_id: state for state in states}
    known = history.known_sites(session, caller, wanted)
    standing: set[str] = set()
    for chunk in history.chunks(known):
        query = select(Tunnel.site_id).where(Tunnel.gateway == gateway, Tunnel.site_id.in_(chunk))
        standing.update(session.scalars(query))
    rows = {
        site: {
            "site_id": site, "gateway": gateway, "up": state.up, "since": state.since, "peer": state.peer[:60],
            "suite": state.suite[:100], "ike_version": state.ike_version,
        }
        for site, state in wanted.items() if site in known
    }  # fmt: skip
    added = [row for site, row in rows.items() if site not in standing]
    changed = [row for site, row in rows.items() if site in standing]
    if added:
        session.execute(insert(Tunnel), added)
    if changed:
        session.execute(update(Tunnel), changed)
    return known


def tunnel_states(session: Session, caller: Caller, *, gateway: str) -> list[TunnelState]:
    """The tunnels of one gateway as rows without objects: there are thousands. Raises RefusedError as above."""
    caller.require_operator()
    columns = (Tunnel.site_id, Tunnel.up, Tunnel.since, Tunnel.peer, Tunnel.suite, Tunnel.ike_version)
    rows = session.execute(select(*columns).where(Tunnel.gateway == gateway))
    return [TunnelState(*row) for row in rows]


def sites_heard_from(session: Session, caller: Caller, sources: Iterable[Address]) -> dict[Address, list[str]]:
    """Sites whose last heartbeat came from these addresses. Raises RefusedError as above."""
    caller.require_operator()
    found: dict[Address, list[str]] = {}
    wanted = {str(source): source for source in sources}
    for chunk in history.chunks(wanted):
        query = select(Heartbeat.source, Heartbeat.site_id).where(
            Heartbeat.source.in_([wanted[text] for text in chunk])
        )
        for source, site in session.execute(query):
            found.setdefault(source, []).append(site)
    return found


def tunnels(session: Session, caller: Caller, *, gateway: str | None = None) -> list[Tunnel]:
    """Tunnels that exist for the caller, by site and gateway."""
    query = select(Tunnel).join(Site, Site.id == Tunnel.site_id).order_by(Tunnel.site_id, Tunnel.gateway)
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    if gateway is not None:
        query = query.where(Tunnel.gateway == gateway)
    return list(session.scalars(query))


def tunnels_of(session: Session, caller: Caller, site_id: str) -> list[Tunnel]:
    """One site's tunnels, by gateway. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    return list(session.scalars(select(Tunnel).where(Tunnel.site_id == site.id).order_by(Tunnel.gateway)))


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
