"""Customers, their sites, and what stands at them."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Address, Network, Table


class Tenant(Table):
    """A customer. ``block`` holds all its sites' overlay prefixes."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    block: Mapped[Network] = mapped_column(unique=True)
    created_at: Mapped[datetime]


class Site(Table):
    """One router and the LAN behind it. ``id`` is a DNS label, unique in the service: certificate CN and host name.

    ``overlay`` is the site's prefix everywhere in the cloud; ``lan`` is what its LAN really uses (same length).
    ``phase`` is planned, construction, commissioning, operation or retired.
    """

    __tablename__ = "sites"
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True, active_history=True)
    overlay: Mapped[Network] = mapped_column(unique=True)
    lan: Mapped[Network]
    phase: Mapped[str] = mapped_column(String(20), default="operation")
    timezone: Mapped[str] = mapped_column(String(40), default="UTC")
    #: Mails an hour before staff are told; None: the relay's default.
    mail_hourly_limit: Mapped[int | None]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Router(Table):
    """The router of a site as enrolled. The device id itself is never stored, only its SHA-256."""

    __tablename__ = "routers"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    device_id_sha256: Mapped[str] = mapped_column(String(64), index=True)
    #: OpenSSH one-line public host key, pinned for remote work.
    ssh_host_key: Mapped[str]
    enrolled_at: Mapped[datetime]


class Device(Table):
    """A controller or other equipment on a site's LAN. ``lan_address`` is its real one, the overlay one follows."""

    __tablename__ = "devices"
    __table_args__ = (UniqueConstraint("site_id", "lan_address"),)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    lan_address: Mapped[Address]
    ssh_host_key: Mapped[str | None]


class Server(Table):
    """A cloud server behind the gateways. ``tenant_id`` None: offered to every tenant."""

    __tablename__ = "servers"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"), active_history=True)
    address: Mapped[Address] = mapped_column(unique=True)
