"""An inventory in parts: what all tenants share, and each tenant's own. Whoever keeps the parts sees what changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rules.model import Device, Inventory, Server, Site


@dataclass(frozen=True, slots=True)
class Parts:
    """``shared`` has the servers that every tenant may name. ``own`` has a part for each tenant there is."""

    shared: Inventory = field(default_factory=lambda: Inventory({}, (), (), ()))
    own: Mapping[str, Inventory] = field(default_factory=dict)


def parts_of(inventory: Inventory, before: Parts | None = None) -> Parts:
    """The parts. One that is equal to its counterpart ``before`` is that very object. A device whose site is not in
    the inventory is nobody's.
    """
    sites: dict[str, list[Site]] = {}
    devices: dict[str, list[Device]] = {}
    servers: dict[str | None, list[Server]] = {}
    tenant_of: dict[str, str] = {}
    for site in inventory.sites:
        tenant_of[site.name] = site.tenant
        sites.setdefault(site.tenant, []).append(site)
    for device in inventory.devices:
        if (tenant := tenant_of.get(device.site)) is not None:
            devices.setdefault(tenant, []).append(device)
    for server in inventory.servers:
        servers.setdefault(server.tenant, []).append(server)
    known = Parts() if before is None else before
    own: dict[str, Inventory] = {}
    for tenant, block in inventory.tenants.items():
        part = Inventory(
            {tenant: block},
            tuple(sites.get(tenant, ())),
            tuple(devices.get(tenant, ())),
            tuple(servers.get(tenant, ())),
        )
        old = known.own.get(tenant)
        own[tenant] = old if old is not None and old == part else part
    shared = Inventory({}, (), (), tuple(servers.get(None, ())))
    return Parts(known.shared if known.shared == shared else shared, own)
