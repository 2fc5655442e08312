"""What the rules need to know, as rules.model: sites, devices at overlay addresses, servers, policies in force.

Revoked and retired sites and their devices are left out: for the rules they do not exist, so nothing is
permitted to them.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.registry import policies
from cloudside.registry.callers import OPERATOR
from cloudside.registry.devices import overlay_address_of
from cloudside.registry.sites import Phase
from cloudside.registry.tables import Device, Server, Site, Tenant
from rules import model


def load(session: Session) -> model.Inventory:
    """The whole inventory, each part sorted by name."""
    tenants = session.scalars(select(Tenant).order_by(Tenant.id))
    sites = list(
        session.scalars(
            select(Site).where(Site.revoked_at.is_(None), Site.phase != Phase.RETIRED.value).order_by(Site.id)
        )
    )
    by_id = {site.id: site for site in sites}
    devices = session.scalars(select(Device).order_by(Device.site_id, Device.name))
    servers = session.scalars(select(Server).order_by(Server.id))
    return model.Inventory(
        tenants={tenant.id: tenant.block for tenant in tenants},
        sites=tuple(model.Site(site.id, site.tenant_id, site.overlay) for site in sites),
        devices=tuple(
            model.Device(device.site_id, device.name, overlay_address_of(by_id[device.site_id], device))
            for device in devices
            if device.site_id in by_id
        ),
        servers=tuple(model.Server(server.id, server.tenant_id, server.address) for server in servers),
    )


def policy_sources(session: Session) -> tuple[model.PolicySource, ...]:
    """The policy in force of each tenant that has one, by tenant."""
    return tuple(
        model.PolicySource(policy.tenant_id, policy.file_name, policy.text)
        for policy in policies.all_in_force(session, OPERATOR)
    )
