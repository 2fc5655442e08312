"""Who changed what, in an order that nobody can change afterwards."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Table


class AuditEntry(Table):
    """One row that was added, changed or removed. Entries are only ever added.

    ``hash`` covers everything in the entry and the hash of the entry before it, so none can be changed, removed from
    the middle or put in between without breaking the chain. ``before`` and ``after`` hold the columns that differ;
    what is secret is left out of them.
    """

    __tablename__ = "audit_entries"
    #: 1, 2, 3, ... without gaps.
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)
    #: A person's name, or the process that did it by itself.
    actor: Mapped[str] = mapped_column(String(100))
    #: Whom it concerns, None: the whole service. No foreign key: a tenant may be gone one day, its entries stay.
    tenant_id: Mapped[str | None] = mapped_column(String(40), index=True)
    #: added, changed or removed.
    action: Mapped[str] = mapped_column(String(10))
    #: The table's name and the row's primary key, "sites" and "tokyo-1".
    kind: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(300), index=True)
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
