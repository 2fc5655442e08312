"""``tokyo-1`` or ``tokyo-1/plc``: where it is, who logs in there, and which host key it must show."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from cloudside.access import refusal
from cloudside.errors import InputError, RefusedError
from cloudside.registry import devices, names, reports, routers, sites
from cloudside.registry.addresses import Address, router_address
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site


@dataclass(frozen=True, slots=True)
class Target:
    """What remote work connects to. ``is_router``: the operators' key opens it; a device has logins of its own."""

    name: str
    address: Address
    host_key: str
    is_router: bool


def resolve(session: Session, caller: Caller, name: str) -> Target:
    """Find what ``name`` means, and whether remote work may start there now.

    Raises InputError: unknown site or device, router not enrolled. RefusedError: not permitted now, or no host key is
    pinned. UnavailableError: no tunnel.
    """
    site_id, device_name = names.split_target(name)
    site = sites.get(session, caller, site_id)
    if device_name is None:
        router = routers.get(session, caller, site.id)
        found = Target(site.id, router_address(site.overlay), router.ssh_host_key, is_router=True)
    else:
        device = devices.get(session, caller, site.id, device_name)
        if not device.ssh_host_key:
            raise RefusedError("access.no-pinned-key", target=name)
        found = Target(name, devices.overlay_address_of(site, device), device.ssh_host_key, is_router=False)
    refusal.check(site_state(session, caller, site))
    return found


def site_state(session: Session, caller: Caller, site: Site) -> refusal.SiteState:
    """What the registry knows of a site, as refusal.check wants it."""
    tunnels = [tunnel for tunnel in reports.tunnels(session, caller) if tunnel.site_id == site.id]
    up = [tunnel for tunnel in tunnels if tunnel.up]
    since = max((tunnel.since for tunnel in up or tunnels), default=None)
    heartbeat = reports.heartbeat(session, caller, site.id)
    report = None
    if heartbeat is not None:
        document = heartbeat.report
        report = refusal.LastReport(
            received_at=heartbeat.received_at,
            uplink=document["uplink"]["kind"],
            problems=tuple(
                refusal.ReportedProblem(problem["key"], problem["params"]) for problem in document["problems"]
            ),
        )
    return refusal.SiteState(
        site=site.id,
        phase=site.phase,
        revoked_at=site.revoked_at,
        tunnel=refusal.TunnelState(up=bool(up), since=since),
        report=report,
    )


def read_login(user: str | None, *, is_router: bool, name: str) -> str:
    """The user name to log in with. A router has one login; a device's has to be named.

    Raises InputError: a device without a user name, or a router with another than its own.
    """
    if is_router:
        if user not in (None, ROUTER_USER):
            raise InputError("access.router-user", target=name, user=str(user)[:40])
        return ROUTER_USER
    if not user:
        raise InputError("access.no-user", target=name)
    return user


#: The router's SSH is inside the tunnel only, and opens to the operators' key alone.
ROUTER_USER = "root"
