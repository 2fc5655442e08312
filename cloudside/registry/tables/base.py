"""What all tables share: columns that are ipaddress objects or aware times, and names for constraints."""

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from sqlalchemy import JSON, DateTime, LargeBinary, MetaData, String, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase

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
        list[str]: JSON,
        bytes: LargeBinary,
    }
