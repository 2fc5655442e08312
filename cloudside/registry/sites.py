"""Sites: one router and the LAN behind it each, with an overlay prefix that is unique in the service."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import certificates, names, tenants
from cloudside.registry.addresses import Address, Network, contains, first_overlap, read_prefix, router_address
from cloudside.registry.allocation import first_free
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Device, Server, Site

#: Length of an overlay prefix when neither it nor the LAN is named, by IP version.
DEFAULT_LENGTH = {4: 24, 6: 64}
#: Bits for hosts that a LAN needs at least: network, router, one device, broadcast.
MIN_HOST_BITS = 2


class Phase(StrEnum):
    """Where a site stands in its life. Remote work over a mobile line depends on it; retired sites leave the rules."""

    PLANNED = "planned"
    CONSTRUCTION = "construction"
    COMMISSIONING = "commissioning"
    OPERATION = "operation"
    RETIRED = "retired"


def add(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    tenant_id: str,
    now: datetime,
    lan: str | Network | None = None,
    overlay: str | Network | None = None,
    phase: str = Phase.OPERATION,
    timezone: str = "UTC",
    mail_hourly_limit: int | None = None,
    reserved: tuple[Network, ...] = (),
) -> Site:
    """Take a site in. Without ``overlay`` the first free prefix of the tenant's block with the LAN's length is given.

    Without ``lan`` the LAN uses the overlay prefix itself and nothing is mapped. ``reserved`` are prefixes no LAN may
    hold, such as the gateways' service addresses: the router would look for the cloud on its own LAN.
    Raises InputError (or InputErrors, all that is wrong): unknown tenant; bad or used name; prefix with host bits,
    outside the block, overlapping a site; LAN and overlay of different length; block full; unknown phase or time zone;
    limit below 1.
    """
    tenant = tenants.get(session, caller, tenant_id)
    problems = [*names.problems_of("site", site_id), *_used(session, site_id)]
    problems += [*_phase_problems(phase), *_timezone_problems(timezone), *_limit_problems(mail_hourly_limit)]
    lan_prefix = _read(lan, problems)
    wanted = _read(overlay, problems)
    problems += [
        InputError("registry.lan-reserved", site=site_id, lan=str(lan_prefix), reserved=str(prefix))
        for prefix in reserved
        if lan_prefix is not None and lan_prefix.overlaps(prefix)
    ]
    broken = (lan is not None and lan_prefix is None) or (overlay is not None and wanted is None)
    chosen: Network | None = None
    if not broken:
        try:
            chosen = _choose(session, tenant.block, wanted, lan_prefix, now=now)
        except InputError as problem:
            problems.append(problem)
    if problems or chosen is None:
        raise combined(problems)
    site = Site(
        id=site_id,
        tenant_id=tenant.id,
        overlay=chosen,
        lan=lan_prefix or chosen,
        phase=str(phase),
        timezone=timezone,
        mail_hourly_limit=mail_hourly_limit,
        created_at=now,
        revoked_at=None,
    )
    session.add(site)
    session.flush()
    return site


def visible(caller: Caller) -> Select[Site]:
    """All sites that exist for the caller, by name."""
    query = select(Site).order_by(Site.id)
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)


def every(session: Session, caller: Caller, *, tenant_id: str | None = None) -> list[Site]:
    """All sites that exist for the caller, by name, or those of one tenant."""
    query = visible(caller)
    return list(session.scalars(query if tenant_id is None else query.where(Site.tenant_id == tenant_id)))


def get(session: Session, caller: Caller, site_id: str) -> Site:
    """One site. Raises InputError: unknown, or another tenant's."""
    site = session.scalar(visible(caller).where(Site.id == site_id))
    if site is None:
        known = names.closest(site_id, session.scalars(visible(caller).with_only_columns(Site.id)))
        raise InputError("registry.unknown-site", site=site_id[:80], known=known)
    return site


def change(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    phase: str | None = None,
    timezone: str | None = None,
    mail_hourly_limit: int | None = None,
) -> Site:
    """Change what is given, leave the rest. Raises InputError (or InputErrors) and changes nothing then."""
    site = get(session, caller, site_id)
    problems = [] if phase is None else _phase_problems(phase)
    problems += [] if timezone is None else _timezone_problems(timezone)
    problems += _limit_problems(mail_hourly_limit)
    if problems:
        raise combined(problems)
    given: dict[str, Any] = {
        "phase": None if phase is None else str(phase),
        "timezone": timezone,
        "mail_hourly_limit": mail_hourly_limit,
    }
    for name, value in given.items():
        if value is not None:
            setattr(site, name, value)
    session.flush()
    return site


@dataclass(frozen=True, slots=True)
class Move:
    """A site's prefixes before and after."""

    site: Site
    overlay_before: Network
    lan_before: Network


def move(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    now: datetime,
    overlay: str | Network | None = None,
    length: int | None = None,
    lan: str | Network | None = None,
    reserved: tuple[Network, ...] = (),
) -> Move:
    """Give a site another overlay prefix: ``overlay``, or the first free one of ``length`` bits in its tenant's block.

    Its LAN keeps its addresses, with the new length, unless ``lan`` names another. A prefix that some site's
    certificate still speaks for is taken, though that site has left it.
    Raises InputError (or InputErrors) and changes nothing then: unknown site; neither or both of ``overlay`` and
    ``length``; prefix bad, outside the block, taken, or the one it has; LAN of another length; a device outside.
    """
    site = get(session, caller, site_id)
    tenant = tenants.get(session, caller, site.tenant_id)
    if (overlay is None) == (length is None):
        raise InputError("registry.move-where", site=site.id)
    wanted = None if overlay is None else read_prefix(overlay)
    bits = wanted.prefixlen if wanted is not None else length or 0
    if not 0 < bits <= tenant.block.max_prefixlen - MIN_HOST_BITS:
        raise InputError("registry.lan-unfit", lan=f"/{bits}", block=str(tenant.block))
    if wanted == site.overlay:
        raise InputError("registry.move-same", site=site.id, overlay=str(wanted))
    new_lan = _lan_of_length(site, bits) if lan is None else read_prefix(lan)
    sized = wanted or new_lan
    if new_lan.prefixlen != bits or new_lan.version != tenant.block.version:
        raise InputError("registry.lan-length", lan=str(new_lan), overlay=str(sized if wanted else f"/{bits}"))
    if any(new_lan.overlaps(prefix) for prefix in reserved if prefix.version == new_lan.version):
        found = ", ".join(map(str, reserved))
        raise InputError("registry.lan-reserved", site=site.id, lan=str(new_lan), reserved=found)
    chosen = _choose(session, tenant.block, wanted, new_lan, now=now, but=site.id)
    _require_devices_inside(session, site, new_lan)
    before = Move(site, site.overlay, site.lan)
    site.overlay, site.lan = chosen, new_lan
    session.flush()
    return before


def _lan_of_length(site: Site, length: int) -> Network:
    try:
        return type(site.lan)((int(site.lan.network_address), length))
    except ValueError:
        raise InputError("registry.move-lan-wanted", site=site.id, lan=str(site.lan), length=length) from None


def _require_devices_inside(session: Session, site: Site, lan: Network) -> None:
    outside = [
        f"{device.name} ({device.lan_address})"
        for device in session.scalars(select(Device).where(Device.site_id == site.id).order_by(Device.name))
        if not _is_device_address(lan, device.lan_address)
    ]
    if outside:
        raise InputError("registry.move-devices-outside", site=site.id, lan=str(lan), devices=", ".join(outside))


def _is_device_address(lan: Network, address: Address) -> bool:
    ends = (lan.network_address, lan.broadcast_address, router_address(lan))
    return address.version == lan.version and address in lan and address not in ends


def _used(session: Session, site_id: str) -> list[InputError]:
    # Policies name sites and servers alike, so they share one name space. The name of another tenant's site is taken
    # too: it is a certificate's CN and must be unique in the service.
    if session.get(Site, site_id) is not None:
        return [InputError("registry.site-exists", site=site_id)]
    if session.get(Server, site_id) is not None:
        return [InputError("registry.name-is-server", name=site_id)]
    return []


def _read(text: str | Network | None, problems: list[InputError]) -> Network | None:
    if text is None:
        return None
    try:
        return read_prefix(text)
    except InputError as problem:
        problems.append(problem)
        return None


def _choose(
    session: Session, block: Network, wanted: Network | None, lan: Network | None, *, now: datetime, but: str = ""
) -> Network:
    sized = wanted or lan
    length = sized.prefixlen if sized is not None else DEFAULT_LENGTH[block.version]
    if block.max_prefixlen - length < MIN_HOST_BITS or (lan is not None and lan.version != block.version):
        raise InputError("registry.lan-unfit", lan=str(sized), block=str(block))
    if wanted is not None and lan is not None and (wanted.prefixlen, wanted.version) != (lan.prefixlen, lan.version):
        raise InputError("registry.lan-length", lan=str(lan), overlay=str(wanted))
    # All tenants' sites, whoever asks: a prefix is taken no matter who may see its owner.
    taken = [(site.id, site.overlay) for site in session.scalars(select(Site))]
    left = [one for one in certificates.still_certified(session, now=now) if one[0] != but]
    if wanted is None:
        free = first_free(block, length, [prefix for _, prefix in (*taken, *left)])
        if free is None:
            raise InputError("registry.block-full", block=str(block), length=length)
        return free
    if not contains(block, wanted):
        raise InputError("registry.overlay-outside-block", overlay=str(wanted), block=str(block))
    # A site may grow or shrink where it is, and go back to where it was.
    conflict = first_overlap(wanted, [one for one in (*taken, *left) if one[0] != but])
    if conflict is not None:
        raise InputError("registry.overlay-overlaps", overlay=str(wanted), site=conflict[0], other=str(conflict[1]))
    return wanted


def _phase_problems(phase: str) -> list[InputError]:
    phases = [str(known) for known in Phase]
    return [] if phase in phases else [InputError("registry.bad-phase", phase=phase[:40], known=", ".join(phases))]


def _timezone_problems(timezone: str) -> list[InputError]:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return [InputError("registry.bad-timezone", timezone=timezone[:80])]
    return []


def _limit_problems(limit: int | None) -> list[InputError]:
    return [] if limit is None or limit >= 1 else [InputError("registry.bad-mail-limit", limit=limit)]
