"""Addresses that a tenant's mail is not sent to any more: they bounced for good, complained, or somebody said so.

Each tenant has its own list. That of the cloud servers, tenant ``""``, is the operators'.
"""

from datetime import datetime

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import mail_patterns, tenants
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Suppression

CAUSES = ("bounce", "complaint", "manual")
#: Column widths, in characters.
REASON_MAX_CHARS = 500
AUTHOR_MAX_CHARS = 100
#: Rows taken away at once: one transaction does not keep others waiting for long.
PRUNE_MAX = 1000


def visible(caller: Caller) -> Select[Suppression]:
    """All that exist for the caller, by tenant and address."""
    query = select(Suppression).order_by(Suppression.tenant_id, Suppression.address)
    return query if caller.tenant is None else query.where(Suppression.tenant_id == caller.tenant)


def every(
    session: Session,
    caller: Caller,
    *,
    tenant_id: str | None = None,
    address: str | None = None,
    now: datetime | None = None,
) -> list[Suppression]:
    """All that exist for the caller and fit what is given, by tenant and address. With ``now`` none that is over."""
    query = visible(caller)
    if tenant_id is not None:
        query = query.where(Suppression.tenant_id == tenant_id)
    if address is not None:
        query = query.where(Suppression.address == address.strip().lower())
    if now is not None:
        query = query.where(or_(Suppression.expires_at.is_(None), Suppression.expires_at > now))
    return list(session.scalars(query))


def add(
    session: Session,
    caller: Caller,
    *,
    tenant_id: str,
    address: str,
    cause: str,
    reason: str,
    author: str,
    now: datetime,
    expires_at: datetime | None = None,
    message: str = "",
) -> Suppression:
    """Send a tenant's mail to an address no more, until ``expires_at``; None: until somebody takes it away.

    One that is there already and lasts longer stays as it is: a bounce does not shorten a complaint. Nobody's list is
    shortened here. ``message`` is the one that was the occasion, 16 hexadecimal digits.
    Raises InputError (or InputErrors): unknown tenant, bad address or cause, a time that is over.
    RefusedError: the operators' list, and the caller is none.
    """
    owner = _owner(session, caller, tenant_id)
    problems: list[InputError] = []
    try:
        address = mail_patterns.address(address)
    except InputError as problem:
        problems.append(problem)
    if cause not in CAUSES:
        problems.append(InputError("registry.bad-suppression-cause", cause=cause[:40], known=", ".join(CAUSES)))
    if expires_at is not None and expires_at <= now:
        shown = expires_at.isoformat(timespec="minutes")
        problems.append(InputError("registry.suppression-is-over", address=address[:254], until=shown))
    if problems:
        raise combined(problems)
    row = session.get(Suppression, (owner, address))
    if row is not None and _lasts(row, now) and not _outlasts(expires_at, row.expires_at):
        return row
    if row is None:
        row = Suppression(tenant_id=owner, address=address, created_at=now)
        session.add(row)
    elif not _lasts(row, now):
        row.created_at = now
    row.cause, row.reason, row.message = cause, reason[:REASON_MAX_CHARS], message[:16]
    row.author, row.expires_at = author[:AUTHOR_MAX_CHARS], expires_at
    session.flush()
    return row


def remove(session: Session, caller: Caller, *, tenant_id: str, address: str) -> Suppression:
    """Send to an address again. Raises InputError: unknown tenant, or not on its list. RefusedError as add."""
    owner = _owner(session, caller, tenant_id)
    found = every(session, caller, tenant_id=owner, address=address)
    if not found:
        raise InputError("registry.not-suppressed", address=address[:254], tenant=owner or "-")
    session.delete(found[0])
    session.flush()
    return found[0]


def prune(session: Session, caller: Caller, *, now: datetime) -> int:
    """Forget some that are over, at most PRUNE_MAX; how many. Raises RefusedError: the caller is no operator."""
    caller.require_operator()
    over = session.scalars(visible(caller).where(Suppression.expires_at <= now).limit(PRUNE_MAX)).all()
    for row in over:
        session.delete(row)
    session.flush()
    return len(over)


def _owner(session: Session, caller: Caller, tenant_id: str) -> str:
    if tenant_id:
        return tenants.get(session, caller, tenant_id).id
    caller.require_operator()
    return ""


def _lasts(row: Suppression, now: datetime) -> bool:
    return row.expires_at is None or row.expires_at > now


def _outlasts(one: datetime | None, other: datetime | None) -> bool:
    """Whether an end is later than another; None is never."""
    return other is not None and (one is None or one > other)
