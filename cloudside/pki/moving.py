"""A site's other prefix: registry, certificate and, by the registry, rules and routes, all in one transaction.

The certificate for the new prefix is issued at once for the key that the router has. The old one stays good to fetch
it with (renewal.GRACE): over the endpoint outside the tunnel, because a gateway ends tunnels with a prefix that is not
the registry's.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.pki import enrolment, issuing
from cloudside.pki.store import KeyStore
from cloudside.registry import certificates, sites, tenants
from cloudside.registry.addresses import Network
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.sites import Move


def move_site(
    session: Session,
    config: Config,
    caller: Caller,
    *,
    site_id: str,
    now: datetime,
    overlay: str | Network | None = None,
    length: int | None = None,
    lan: str | Network | None = None,
    reserved: tuple[Network, ...] = (),
) -> Move:
    """Move a site as sites.move does, and reissue its router's certificate if it has one. Raises as both do.

    The session must be a writing one; the gateway is to be told after the commit.
    """
    enrolment.require_enrollable(sites.get(session, caller, site_id))
    moved = sites.move(
        session, caller, site_id=site_id, now=now, overlay=overlay, length=length, lan=lan, reserved=reserved
    )
    site = moved.site
    name = issuing.tenant_authority_name(site.tenant_id)
    counting = certificates.counting(session, authority=name, kind="site", subject=site.id, now=now)
    for record in counting:
        if record.overlay is None:  # older than the column; no site had moved then
            record.overlay = moved.overlay_before
    if counting:
        tenant = tenants.get(session, OPERATOR, site.tenant_id)
        authority = issuing.ensure_tenant_authority(session, KeyStore.of(config), tenant=tenant, now=now)
        key = issuing.site_key(counting[-1])
        issuing.issue(session, authority, enrolment.site_leaf(site), kind="site", key=key, now=now)
    return moved
