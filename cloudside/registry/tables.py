"""The registry's tables. Times are UTC; prefixes and addresses are stored as text and met as ipaddress objects.

Gateways, routers and relays are plural from the first table on. What is secret is stored hashed (device ids, SMTP
passwords) or not at all (private keys live in the state directory, mode 0600).
"""

from datetime import UTC, date, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class _AddressColumn(TypeDecorator[Address]):
    impl = String(43)
    cache_ok = True

    def process_bind_param(self, value: Address | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Address | None:
        return None if value is None else ip_address(value)


class _NetworkColumn(TypeDecorator[Network]):
    impl = String(43)
    cache_ok = True

    def process_bind_param(self, value: Network | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Network | None:
        return None if value is None else ip_network(value)


class _UtcColumn(TypeDecorator[datetime]):
    """SQLite forgets the zone: written and read as UTC, always aware."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables. Constraints have names, because a later migration can only change what it can name."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        datetime: _UtcColumn,
        Address: _AddressColumn,
        Network: _NetworkColumn,
        dict[str, Any]: JSON,
        bytes: LargeBinary,
    }


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
    device_id_sha256: Mapped[str] = mapped_column(String(64))
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


class Certificate(Table):
    """A certificate that was issued. ``serial`` is hexadecimal: it does not fit a database integer."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    authority: Mapped[str] = mapped_column(String(63), index=True)
    #: root, authority, site, gateway or server.
    kind: Mapped[str] = mapped_column(String(20))
    subject: Mapped[str] = mapped_column(String(63), index=True)
    pem: Mapped[str]
    not_before: Mapped[datetime]
    not_after: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class RevocationList(Table):
    """The newest CRL of each authority, DER."""

    __tablename__ = "revocation_lists"
    authority: Mapped[str] = mapped_column(String(63), primary_key=True)
    number: Mapped[int]
    der: Mapped[bytes]
    next_update: Mapped[datetime]


class Settings(Table):
    """A version of a site's desired settings. ``state``: pending, applied or reverted; ``problem`` says why."""

    __tablename__ = "settings"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    values: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(10), default="pending")
    problem: Mapped[dict[str, Any] | None]
    author: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


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


class LogRequest(Table):
    """A log pull: asked for by a person, answered by the router's agent."""

    __tablename__ = "log_requests"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    lines: Mapped[int]
    requested_by: Mapped[str] = mapped_column(String(100))
    requested_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    #: gzip of UTF-8 text.
    content: Mapped[bytes | None]


class SmtpCredential(Table):
    """A user name that a site's devices authenticate with at the relay; the password as an argon2id hash."""

    __tablename__ = "smtp_credentials"
    user: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Incident(Table):
    """A condition that staff should know of, from its opening until it ends. One open incident a (kind, subject)."""

    __tablename__ = "incidents"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(40), index=True)
    subject: Mapped[str] = mapped_column(String(63), index=True)
    #: "kind/subject" while open, None afterwards: the unique index is what keeps an alarm from being raised twice.
    open_key: Mapped[str | None] = mapped_column(String(110), unique=True)
    params: Mapped[dict[str, Any]]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    notified_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None] = mapped_column(String(100))


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
