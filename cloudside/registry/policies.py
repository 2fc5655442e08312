"""Policies: each tenant's policy file as written, every version kept. The highest version is in force."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloudside.registry import tenants
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Policy


def add_version(
    session: Session, caller: Caller, *, tenant_id: str, text: str, file_name: str, author: str, now: datetime
) -> Policy:
    """Put a policy in force for a tenant. The text was checked before (rules.parse): nothing is checked here.

    Raises InputError: unknown tenant.
    """
    tenant = tenants.get(session, caller, tenant_id)
    newest = session.scalar(select(func.max(Policy.version)).where(Policy.tenant_id == tenant.id)) or 0
    policy = Policy(
        tenant_id=tenant.id,
        version=newest + 1,
        text=text,
        file_name=file_name[-200:],
        author=author[:100],
        applied_at=now,
    )
    session.add(policy)
    session.flush()
    return policy


def versions(session: Session, caller: Caller, tenant_id: str) -> list[Policy]:
    """All versions of a tenant's policy, newest first. Raises InputError: unknown tenant."""
    tenant = tenants.get(session, caller, tenant_id)
    query = select(Policy).where(Policy.tenant_id == tenant.id).order_by(Policy.version.desc())
    return list(session.scalars(query))


def in_force(session: Session, caller: Caller, tenant_id: str) -> Policy | None:
    """The policy in force; None: none yet, so nothing is permitted. Raises InputError: unknown tenant."""
    tenant = tenants.get(session, caller, tenant_id)
    query = select(Policy).where(Policy.tenant_id == tenant.id).order_by(Policy.version.desc()).limit(1)
    return session.scalar(query)


def all_in_force(session: Session, caller: Caller) -> list[Policy]:
    """The policy in force of each tenant that exists for the caller and has one, by tenant."""
    newest = select(Policy.tenant_id, func.max(Policy.version).label("version")).group_by(Policy.tenant_id).subquery()
    query = (
        select(Policy)
        .join(newest, (newest.c.tenant_id == Policy.tenant_id) & (newest.c.version == Policy.version))
        .order_by(Policy.tenant_id)
    )
    if caller.tenant is not None:
        query = query.where(Policy.tenant_id == caller.tenant)
    return list(session.scalars(query))
