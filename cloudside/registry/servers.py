"""Cloud servers behind the gateways. Operators state them; a tenant sees its own and those offered to everyone."""

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import names, tenants
from cloudside.registry.addresses import Address, Network, contains, read_address, read_prefix
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Server, Site, Tenant


def add(
    session: Session,
    caller: Caller,
    *,
    server_id: str,
    address: str | Address,
    overlay: Network,
    tenant_id: str | None = None,
    reserved: tuple[Network, ...] = (),
) -> Server:
    """Take a server in. ``tenant_id`` None offers it to every tenant; ``reserved`` are the gateways' own addresses.

    Raises InputError (or InputErrors): unknown tenant; bad or used name; address outside the overlay, inside a tenant's
    block (a site could claim it), reserved or used. RefusedError: the caller is not an operator.
    """
    caller.require_operator()
    if tenant_id is not None:
        tenants.get(session, caller, tenant_id)
    problems = names.problems_of("server", server_id)
    if session.get(Server, server_id) is not None:
        problems.append(InputError("registry.server-exists", server=server_id))
    if session.get(Site, server_id) is not None:
        problems.append(InputError("registry.name-is-site", name=server_id))
    place: Address | None = None
    try:
        place = read_address(address)
        problems += _address_problems(session, place, overlay, reserved)
    except InputError as problem:
        problems.append(problem)
    if problems or place is None:
        raise combined(problems)
    server = Server(id=server_id, tenant_id=tenant_id, address=place)
    session.add(server)
    session.flush()
    return server


def visible(caller: Caller) -> Select[Server]:
    """All servers that exist for the caller, by name."""
    query = select(Server).order_by(Server.id)
    if caller.tenant is None:
        return query
    return query.where(or_(Server.tenant_id == caller.tenant, Server.tenant_id.is_(None)))


def every(session: Session, caller: Caller) -> list[Server]:
    """All servers that exist for the caller, by name."""
    return list(session.scalars(visible(caller)))


def get(session: Session, caller: Caller, server_id: str) -> Server:
    """One server. Raises InputError: unknown, or another tenant's."""
    server = session.scalar(visible(caller).where(Server.id == server_id))
    if server is None:
        known = names.closest(server_id, (other.id for other in every(session, caller)))
        raise InputError("registry.unknown-server", server=server_id[:80], known=known)
    return server


def remove(session: Session, caller: Caller, *, server_id: str) -> None:
    """Forget a server. Raises InputError: unknown. RefusedError: the caller is not an operator."""
    caller.require_operator()
    session.delete(get(session, caller, server_id))
    session.flush()


def _address_problems(
    session: Session, address: Address, overlay: Network, reserved: tuple[Network, ...]
) -> list[InputError]:
    host = read_prefix(str(address))
    if not contains(overlay, host):
        return [InputError("registry.server-outside-overlay", address=str(address), overlay=str(overlay))]
    if any(contains(prefix, host) for prefix in reserved):
        return [InputError("registry.server-address-reserved", address=str(address))]
    for tenant in session.scalars(select(Tenant)):
        if contains(tenant.block, host):
            return [
                InputError("registry.server-in-block", address=str(address), tenant=tenant.id, block=str(tenant.block))
            ]
    other = session.scalar(select(Server).where(Server.address == address))
    return [] if other is None else [InputError("registry.server-address-used", address=str(address), server=other.id)]
