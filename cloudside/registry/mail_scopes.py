"""Whose mail a limit or a hold is about: a tenant's, a site's, a cloud server's, a device's.

A device is known by its user name, or by the address that its mail comes from. Cloud servers' mail is the operators'.
"""

from dataclasses import dataclass
from ipaddress import ip_address

from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.mail.model import Scope
from cloudside.registry import credentials, servers, sites, tenants
from cloudside.registry.addresses import Address
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site

#: Before the name of a cloud server, where sites and servers stand side by side.
SERVER = "server/"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose mail it is, in the words that the relay uses. ``tenant`` None: a cloud server's.

    ``origin``: the site, or ``server/<id>``, that it comes from; None: from any of a tenant's.
    """

    scope: Scope
    name: str
    tenant: str | None
    origin: str | None


def subject(session: Session, caller: Caller, scope: str, name: str) -> Subject:
    """Look it up.

    Raises InputError: unknown, or another tenant's. RefusedError: a cloud server, and the caller is no operator.
    """
    known, name = read(scope, name)
    if known is Scope.TENANT:
        return Subject(known, name, tenants.get(session, caller, name).id, None)
    if known is Scope.SITE:
        if name.startswith(SERVER):
            servers.get(session, caller, name.removeprefix(SERVER))
            caller.require_operator()
            return Subject(known, name, None, name)
        site = sites.get(session, caller, name)
        return Subject(known, name, site.tenant_id, site.id)
    address = _address(name)
    if address is not None:
        return _at_address(session, caller, address)
    site = sites.get(session, caller, credentials.get(session, caller, name).site_id)
    return Subject(known, name, site.tenant_id, site.id)


def read(scope: str, name: str) -> tuple[Scope, str]:
    """A scope and a name as they are kept, without looking whether there is such a one. Raises InputError."""
    try:
        known = Scope(scope)
    except ValueError:
        words = ", ".join(Scope)
        raise InputError("registry.bad-mail-scope", scope=scope[:40], known=words) from None
    address = _address(name) if known is Scope.DEVICE else None
    return known, name if address is None else str(address)


def _address(name: str) -> Address | None:
    try:
        return ip_address(name.strip())
    except ValueError:
        return None


def _at_address(session: Session, caller: Caller, address: Address) -> Subject:
    """Whose device sends from an address."""
    for server in servers.every(session, caller):
        if server.address == address:
            caller.require_operator()
            return Subject(Scope.DEVICE, str(address), None, f"{SERVER}{server.id}")
    query = sites.visible(caller).with_only_columns(Site.id, Site.tenant_id, Site.overlay)
    for site, tenant, overlay in session.execute(query):
        if overlay.version == address.version and address in overlay:
            return Subject(Scope.DEVICE, str(address), tenant, site)
    raise InputError("registry.unknown-mail-address", address=str(address))
