"""The audit log as it is read: who changed what, and whether the log is whole. It is written by auditing."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, or_, select
from sqlalchemy.orm import Session

from cloudside.errors import ConfigurationError
from cloudside.registry import chain
from cloudside.registry.callers import Caller
from cloudside.registry.tables import AuditEntry

#: Rows fetched at once while the whole log is read.
_AT_ONCE = 1000
#: What SQLAlchemy's types raise for a column that holds no JSON or no time: somebody wrote past Kyoten.
_UNREADABLE = (ValueError, TypeError)


def visible(caller: Caller) -> Select[AuditEntry]:
    """All entries that exist for the caller, newest first. A tenant sees those that concern it."""
    query = select(AuditEntry).order_by(AuditEntry.number.desc())
    return query if caller.tenant is None else query.where(AuditEntry.tenant_id == caller.tenant)


def latest(
    session: Session,
    caller: Caller,
    *,
    most: int,
    tenant_id: str | None = None,
    subject: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
) -> list[AuditEntry]:
    """Entries that exist for the caller and fit all that is given, newest first.

    ``subject`` finds what is called so and what belongs to it: "tokyo-1" also finds "tokyo-1/plc".
    Raises ConfigurationError: one of them was damaged so that it cannot be read.
    """
    query = visible(caller).limit(most)
    if tenant_id is not None:
        query = query.where(AuditEntry.tenant_id == tenant_id)
    if subject is not None:
        below = AuditEntry.subject.startswith(f"{subject}/", autoescape=True)
        query = query.where(or_(AuditEntry.subject == subject, below))
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    if since is not None:
        query = query.where(AuditEntry.at >= since)
    try:
        return list(session.scalars(query))
    except _UNREADABLE:
        raise ConfigurationError("audit.unreadable") from None


def head(session: Session, caller: Caller) -> chain.Head:
    """The newest entry's number and hash. Raises RefusedError: the caller is not an operator."""
    caller.require_operator()
    query = select(AuditEntry.number, AuditEntry.hash).order_by(AuditEntry.number.desc()).limit(1)
    newest = session.execute(query).first()
    return chain.EMPTY if newest is None else chain.Head(newest.number, newest.hash)


def entries(session: Session, caller: Caller) -> Iterator[tuple[chain.Entry, str]]:
    """Every entry with its hash, by number, for chain.verify.

    Raises RefusedError: the caller is not an operator. ConfigurationError, when it comes to it: an entry was damaged so
    that it cannot even be read.
    """
    caller.require_operator()
    return _all(session)


def _all(session: Session) -> Iterator[tuple[chain.Entry, str]]:
    # Page by page, not with a cursor of the server's: a reader may stop at any entry.
    query = select(*AuditEntry.__table__.columns).order_by(AuditEntry.number).limit(_AT_ONCE)
    after: int | None = None
    while rows := _page(session, query if after is None else query.where(AuditEntry.number > after)):
        yield from map(_entry, rows)
        after = rows[-1].number


def _page(session: Session, query: Select[Any]) -> Sequence[Row[Any]]:
    try:
        return session.execute(query).all()
    except _UNREADABLE:
        pass
    # One by one, so that what stands before the damaged entry is verified first: it may have been changed as well.
    one = session.execute(query.with_only_columns(AuditEntry.number).limit(1)).scalar_one()
    try:
        return session.execute(query.limit(1)).all()
    except _UNREADABLE:
        raise ConfigurationError("audit.changed", number=one, good=max(one - 1, 0)) from None


def _entry(row: Row[tuple[object, ...]]) -> tuple[chain.Entry, str]:
    entry = chain.Entry(
        number=row.number,
        at=row.at,
        actor=row.actor,
        tenant=row.tenant_id,
        action=row.action,
        kind=row.kind,
        subject=row.subject,
        before=row.before,
        after=row.after,
        previous=row.previous,
    )
    return entry, row.hash
