"""Policies, grants, and what came of them."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Table


class Policy(Table):
    """One version of a tenant's policy file, as written. The highest version is in force."""

    __tablename__ = "policies"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    file_name: Mapped[str] = mapped_column(String(200))
    author: Mapped[str] = mapped_column(String(100))
    applied_at: Mapped[datetime]


class PlatformPolicy(Table):
    """One version of the platform's file, as written. The highest version is in force."""

    __tablename__ = "platform_policies"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]
    file_name: Mapped[str] = mapped_column(String(200))
    author: Mapped[str] = mapped_column(String(100))
    applied_at: Mapped[datetime]


class Grant(Table):
    """Reachability for a limited time, beside a tenant's policy: for a visit.

    ``source`` and ``destination`` are names as policies use them; the source may be a single address. ``services`` is
    as written. It holds from ``starts_at``, inclusive, to ``ends_at``, exclusive, unless it was ended before.
    """

    __tablename__ = "grants"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True, active_history=True)
    source: Mapped[str] = mapped_column(String(110))
    destination: Mapped[str] = mapped_column(String(110))
    services: Mapped[str] = mapped_column(String(500))
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(String(500))
    author: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class RuleRevision(Table):
    """Marks the state of all that the rules read of a tenant; the empty scope is what tenants share.

    A random number, not a counter: a registry restored from a backup counts the same numbers again for other content.
    """

    __tablename__ = "rule_revisions"
    scope: Mapped[str] = mapped_column(String(40), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)


class StatementCounter(Table):
    """What a statement let pass on one day (UTC), at all gateways together."""

    __tablename__ = "statement_counters"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    statement: Mapped[str] = mapped_column(String(150), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    #: Flows that began.
    flows: Mapped[int] = mapped_column(BigInteger)
    #: Of flows that ended, both ways.
    packets: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    last_used: Mapped[datetime]


class Refusal(Table):
    """Who was refused what by a gateway, and why at that time. An end's name is its address where it has none."""

    __tablename__ = "refused"
    __table_args__ = (Index("ix_refused_tenant_id_last_seen", "tenant_id", "last_seen"),)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    source_address: Mapped[str] = mapped_column(String(43), primary_key=True)
    destination_address: Mapped[str] = mapped_column(String(43), primary_key=True)
    service: Mapped[str] = mapped_column(String(40), primary_key=True)
    gateway: Mapped[str] = mapped_column(String(40), primary_key=True)
    source: Mapped[str] = mapped_column(String(110))
    destination: Mapped[str] = mapped_column(String(110))
    #: A message key and its parameters.
    reason: Mapped[str] = mapped_column(String(60))
    params: Mapped[dict[str, Any]]
    #: The deny statements, separated by blanks.
    statements: Mapped[str]
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
