"""Tenants: customers, each with one block of the overlay. Giving out blocks is the operators' business."""

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import names
from cloudside.registry.addresses import Network, contains, first_overlap, read_prefix
from cloudside.registry.allocation import first_free
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Server, Tenant

#: Length of a block when the operator names none: room for 256 sites with a /24 each.
BLOCK_LENGTH = 16


def add(
    session: Session,
    caller: Caller,
    *,
    tenant_id: str,
    overlay: Network,
    now: datetime,
    block: str | Network | None = None,
    reserved: tuple[Network, ...] = (),
) -> Tenant:
    """Take a tenant in. Without ``block`` the first free /16 of the overlay is given.

    ``reserved`` are prefixes of the overlay that are nobody's, such as the gateways' service addresses.
    Raises InputError (or InputErrors): bad or used name; block with host bits, outside the overlay or overlapping;
    overlay full.
    """
    caller.require_operator()
    problems = names.problems_of("tenant", tenant_id)
    if session.get(Tenant, tenant_id) is not None:
        problems.append(InputError("registry.tenant-exists", tenant=tenant_id))
    used = [*taken(session), *((str(prefix), prefix) for prefix in reserved)]
    chosen: Network | None = None
    try:
        chosen = _choose(block, overlay, used)
    except InputError as problem:
        problems.append(problem)
    if problems or chosen is None:
        raise combined(problems)
    tenant = Tenant(id=tenant_id, block=chosen, created_at=now)
    session.add(tenant)
    session.flush()
    return tenant


def visible(caller: Caller) -> Select[Tenant]:
    """All tenants that exist for the caller, by name."""
    query = select(Tenant).order_by(Tenant.id)
    return query if caller.tenant is None else query.where(Tenant.id == caller.tenant)


def every(session: Session, caller: Caller) -> list[Tenant]:
    """All tenants that exist for the caller, by name."""
    return list(session.scalars(visible(caller)))


def get(session: Session, caller: Caller, tenant_id: str) -> Tenant:
    """One tenant. Raises InputError: unknown, or another's."""
    tenant = session.scalar(visible(caller).where(Tenant.id == tenant_id))
    if tenant is None:
        known = names.closest(tenant_id, (other.id for other in every(session, caller)))
        raise InputError("registry.unknown-tenant", tenant=tenant_id[:80], known=known)
    return tenant


def taken(session: Session) -> list[tuple[str, Network]]:
    """What of the overlay belongs to somebody, with its owner: all tenants' blocks and all servers. For checks only."""
    blocks: list[tuple[str, Network]] = [(tenant.id, tenant.block) for tenant in session.scalars(select(Tenant))]
    for server in session.scalars(select(Server)):
        blocks.append((server.id, read_prefix(str(server.address))))
    return blocks


def _choose(block: str | Network | None, overlay: Network, taken: list[tuple[str, Network]]) -> Network:
    if block is None:
        free = first_free(overlay, max(BLOCK_LENGTH, overlay.prefixlen), [prefix for _, prefix in taken])
        if free is None:
            raise InputError("registry.overlay-full", overlay=str(overlay), length=BLOCK_LENGTH)
        return free
    chosen = read_prefix(block)
    if not contains(overlay, chosen):
        raise InputError("registry.block-outside-overlay", block=str(chosen), overlay=str(overlay))
    conflict = first_overlap(chosen, taken)
    if conflict is not None:
        raise InputError("registry.block-overlaps", block=str(chosen), owner=conflict[0], other=str(conflict[1]))
    return chosen
