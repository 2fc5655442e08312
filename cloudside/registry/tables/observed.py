"""What gateways and routers last said: never the truth about what is wanted."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Address, Table


class Heartbeat(Table):
    """The last heartbeat of each site, as reported (fleet/ owns the document's form)."""

    __tablename__ = "heartbeats"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    received_at: Mapped[datetime]
    #: The address it came from; inside the overlay when it came through the tunnel.
    source: Mapped[Address]
    report: Mapped[dict[str, Any]]


class Tunnel(Table):
    """What a gateway last saw of a site's tunnel."""

    __tablename__ = "tunnels"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    gateway: Mapped[str] = mapped_column(String(40), primary_key=True)
    up: Mapped[bool]
    since: Mapped[datetime]
    peer: Mapped[str] = mapped_column(String(60), default="")
    suite: Mapped[str] = mapped_column(String(100), default="")
    #: 1 or 2; 0 while nobody has said.
    ike_version: Mapped[int] = mapped_column(default=0)


class GatewayState(Table):
    """What a gateway last did: which policy state is in its kernel, and what troubles it."""

    __tablename__ = "gateways"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    seen_at: Mapped[datetime]
    #: The fingerprint of the rule set in the kernel.
    rule_set: Mapped[str] = mapped_column(String(64), default="")
    dataplane: Mapped[str] = mapped_column(String(20), default="")
    #: List of {key, params} under "problems".
    report: Mapped[dict[str, Any]]


class TunnelChange(Table):
    """A tunnel came up or went away: the history of a site. ``cause`` of a loss is a message key; empty: none known."""

    __tablename__ = "tunnel_changes"
    __table_args__ = (Index("ix_tunnel_changes_site_id_at", "site_id", "at"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    gateway: Mapped[str] = mapped_column(String(40))
    at: Mapped[datetime] = mapped_column(index=True)
    up: Mapped[bool]
    peer: Mapped[str] = mapped_column(String(60), default="")
    cause: Mapped[str] = mapped_column(String(60), default="")
    params: Mapped[dict[str, Any]]


class SiteProblem(Table):
    """What last kept a site from being connected, as somebody saw it: a gateway, or its own router.

    Kept after it is over: ``seen_at`` says when it was seen last. ``key`` and ``params`` are a message's.
    """

    __tablename__ = "site_problems"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    #: "router", or "gateway/" and its name.
    seen_by: Mapped[str] = mapped_column(String(50), primary_key=True)
    key: Mapped[str] = mapped_column(String(60))
    params: Mapped[dict[str, Any]]
    since: Mapped[datetime]
    seen_at: Mapped[datetime]


class SiteUsage(Table):
    """What a site's tunnels at one gateway carried in one hour (UTC). Bytes are those inside the tunnel."""

    __tablename__ = "site_usage"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True, index=True)
    gateway: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: The tenant at that time: statements of past months stay as they are.
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    bytes_from_site: Mapped[int] = mapped_column(BigInteger)
    bytes_to_site: Mapped[int] = mapped_column(BigInteger)
    #: Milliseconds with a live tunnel.
    connected_ms: Mapped[int] = mapped_column(BigInteger)


class MembershipUsage(Table):
    """What a site sent and received in one hour (UTC) as a member of one group (VPN), at one gateway."""

    __tablename__ = "membership_usage"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    group_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True, index=True)
    gateway: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    bytes_from_site: Mapped[int] = mapped_column(BigInteger)
    bytes_to_site: Mapped[int] = mapped_column(BigInteger)
    #: Milliseconds as a member with a live tunnel.
    connected_ms: Mapped[int] = mapped_column(BigInteger)


class UsageCursor(Table):
    """How far a gateway's usage is told. Written with the rows themselves, so nothing is told twice or left out."""

    __tablename__ = "usage_cursors"
    gateway: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: The last cut of the kernel's counters whose bytes are in the rows (datapath.traffic).
    cut: Mapped[int] = mapped_column(BigInteger)
    #: Until when connected time is in the rows.
    until: Mapped[datetime]
