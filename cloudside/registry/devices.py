"""Devices: controllers and other equipment on a site's LAN, known by their real address there."""

import base64
import binascii

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import names, sites
from cloudside.registry.addresses import Address, overlay_address, read_address, router_address
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Device, Site


def add(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    name: str,
    lan_address: str | Address,
    ssh_host_key: str | None = None,
) -> Device:
    """Take a device in. ``ssh_host_key`` is its OpenSSH one-line public host key, pinned for remote work.

    Raises InputError (or InputErrors): unknown site; bad or used name; address outside the LAN, the router's own, the
    prefix's first or last, or used by another device; a host key that is none.
    """
    site = sites.get(session, caller, site_id)
    problems = names.problems_of("device", name)
    if session.get(Device, (site.id, name)) is not None:
        problems.append(InputError("registry.device-exists", site=site.id, device=name))
    address: Address | None = None
    try:
        address = read_address(lan_address)
        problems += _address_problems(session, site, address)
    except InputError as problem:
        problems.append(problem)
    if ssh_host_key is not None and not _is_host_key(ssh_host_key):
        problems.append(InputError("registry.bad-host-key", owner=f"{site.id}/{name}"))
    if problems or address is None:
        raise combined(problems)
    device = Device(site_id=site.id, name=name, lan_address=address, ssh_host_key=ssh_host_key)
    session.add(device)
    session.flush()
    return device


def visible(caller: Caller) -> Select[Device]:
    """All devices that exist for the caller, by site and name."""
    query = select(Device).join(Site, Site.id == Device.site_id).order_by(Device.site_id, Device.name)
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)


def every(session: Session, caller: Caller, *, site_id: str | None = None) -> list[Device]:
    """All devices that exist for the caller, or those of one site. Raises InputError: unknown site."""
    if site_id is None:
        return list(session.scalars(visible(caller)))
    sites.get(session, caller, site_id)
    return list(session.scalars(visible(caller).where(Device.site_id == site_id)))


def get(session: Session, caller: Caller, site_id: str, name: str) -> Device:
    """One device. Raises InputError: unknown site or device, or another tenant's."""
    known = {device.name: device for device in every(session, caller, site_id=site_id)}
    if name not in known:
        raise InputError("registry.unknown-device", site=site_id, device=name[:80], known=names.closest(name, known))
    return known[name]


def pin_host_key(session: Session, caller: Caller, *, site_id: str, name: str, ssh_host_key: str) -> Device:
    """The host key that remote work is held to from now on. Raises InputError: unknown device, or no host key."""
    device = get(session, caller, site_id, name)
    if not _is_host_key(ssh_host_key):
        raise InputError("registry.bad-host-key", owner=f"{site_id}/{name}")
    device.ssh_host_key = ssh_host_key.strip()
    session.flush()
    return device


def remove(session: Session, caller: Caller, *, site_id: str, name: str) -> None:
    """Forget a device. Raises InputError: unknown."""
    session.delete(get(session, caller, site_id, name))
    session.flush()


def overlay_address_of(site: Site, device: Device) -> Address:
    """Where the cloud meets the device."""
    return overlay_address(site.lan, site.overlay, device.lan_address)


def _address_problems(session: Session, site: Site, address: Address) -> list[InputError]:
    shown = {"site": site.id, "address": str(address)}
    if address not in site.lan:
        return [InputError("registry.device-outside-lan", lan=str(site.lan), **shown)]
    if address in (site.lan.network_address, site.lan.broadcast_address):
        return [InputError("registry.device-address-reserved", lan=str(site.lan), **shown)]
    if address == router_address(site.lan):
        return [InputError("registry.device-is-router", **shown)]
    other = session.scalar(select(Device).where(Device.site_id == site.id, Device.lan_address == address))
    return [] if other is None else [InputError("registry.device-address-used", device=other.name, **shown)]


def _is_host_key(line: str) -> bool:
    # RFC 4253 section 6.6: the blob repeats the algorithm's name, length first.
    fields = line.split()
    if len(fields) < 2 or "\n" in line.strip():
        return False
    try:
        blob = base64.b64decode(fields[1], validate=True)
    except (binascii.Error, ValueError):
        return False
    name = fields[0].encode()
    return blob.startswith(len(name).to_bytes(4, "big") + name) and len(blob) > 4 + len(name)
