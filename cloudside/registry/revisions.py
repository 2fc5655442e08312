"""Who has to be told of a write: each writing session marks the tenants whose rules' input it changes.

The mark is a new random number in ``rule_revisions``, in the same transaction as the change. No function has to think
of it: the session looks at every object it is about to write, and refuses statements that change such rows without
objects (see auditing). Not seen: SQL that passes the session by (another program's, ``Connection.execute``, the
``bulk_`` methods of old); a test keeps those out of our sources, and readers look at everything once in a while.

Reading the marks is inventory's business.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import event, insert, inspect, select, update
from sqlalchemy.orm import Session, UOWTransaction

from cloudside.registry.sessions import WritingSession
from cloudside.registry.tables import Device, Grant, PlatformPolicy, Policy, RuleRevision, Server, Site, Table, Tenant

#: The scope of what tenants share: shared servers and the platform's file. No tenant's name is empty.
SHARED = ""

#: Where a row says whose it is; None: it is everybody's. A row that says nobody (a server) is everybody's too.
_OWNER: Mapping[type[Table], str | None] = {
    Tenant: "id",
    Site: "tenant_id",
    Device: "site_id",
    Server: "tenant_id",
    Policy: "tenant_id",
    PlatformPolicy: None,
    Grant: "tenant_id",
}
#: Names in one IN clause; SQLite takes 32,766 parameters at most (SQLITE_MAX_VARIABLE_NUMBER).
_CHUNK = 1000


@event.listens_for(WritingSession, "before_flush")
def _mark_objects(session: WritingSession, _flush: UOWTransaction, _objects: object) -> None:
    scopes: set[str] = set()
    homes: set[str] = set()
    changed = (row for row in session.dirty if session.is_modified(row))
    for row in (*session.new, *changed, *session.deleted):
        if type(row) in _OWNER:
            if not session.decides:
                raise TypeError(f"{type(row).__name__} in a recording session: use Database.write")
            (homes if isinstance(row, Device) else scopes).update(_owners(row))
    # A site that is written in this flush may have no row yet; it is marked by itself.
    ordered = sorted(homes)
    for start in range(0, len(ordered), _CHUNK):
        query = select(Site.tenant_id).where(Site.id.in_(ordered[start : start + _CHUNK])).distinct()
        scopes.update(session.connection().scalars(query))
    _mark(session, scopes)


def _owners(row: Table) -> Iterator[str]:
    """Whose the row is, and whose it was before this flush."""
    column = _OWNER[type(row)]
    if column is None:
        yield SHARED
        return
    history = inspect(row).attrs[column].load_history()
    for owner in history.sum() or (None,):
        yield SHARED if owner is None else owner


def _mark(session: Session, scopes: Iterable[str]) -> None:
    connection = session.connection()
    for scope in sorted(scopes):  # in one order, so that two writers of one database wait and do not block each other
        revision = secrets.randbits(63)
        marked = connection.execute(update(RuleRevision).where(RuleRevision.scope == scope).values(revision=revision))
        if marked.rowcount == 0:
            connection.execute(insert(RuleRevision).values(scope=scope, revision=revision))
