"""Usage: what sites sent and received, and how long they were connected; hour by hour, at all gateways.

Gateways add to the rows; nobody else writes them. Hours, months and days are UTC. A row keeps the tenant that the site
had then, so the statement of a past month stays what it was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from sqlalchemy import CursorResult, Select, delete, func, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import sites, tenants
from cloudside.registry.callers import Caller
from cloudside.registry.counted import MembershipUse, SiteUse
from cloudside.registry.tables import MembershipUsage, Site, SiteUsage, UsageCursor
from cloudside.registry.upserts import upsert

_AMOUNTS = ("bytes_from_site", "bytes_to_site", "connected_ms")


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a gateway's usage is told: the last cut of its counters, and until when connected time is."""

    cut: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """One line: ``site`` and ``group`` may be summed over ("" then), as the hours from ``since`` are."""

    tenant: str
    site: str
    group: str
    since: datetime
    bytes_from_site: int
    bytes_to_site: int
    connected_ms: int

    @property
    def hours(self) -> float:
        """Connected hours."""
        return self.connected_ms / 3_600_000


class Period(Enum):
    """What rows are summed to."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


def cursor(session: Session, caller: Caller, gateway: str) -> Cursor | None:
    """How far a gateway has told. Raises RefusedError: the caller is not the service itself."""
    caller.require_operator()
    found = session.get(UsageCursor, gateway)
    return None if found is None else Cursor(found.cut, found.until)


def tell(
    session: Session,
    caller: Caller,
    uses: Iterable[SiteUse],
    groups: Mapping[str, Iterable[str]],
    *,
    gateway: str,
    told: Cursor,
) -> None:
    """Add what a gateway counted, and with it how far it has told. ``groups``: those that each site is a member of;
    their connected time is the site's. Sites that the registry does not know are left out.

    Raises RefusedError: the caller is not the service itself.
    """
    caller.require_operator()
    found = list(uses)
    owners = _owners(session, {use.site for use in found})
    ordered = sorted((use for use in found if use.site in owners), key=lambda use: (use.site, use.hour))
    rows = [
        _row(use.site, owners[use.site], use.hour, gateway, use.from_site, use.to_site, use.connected_ms)
        for use in ordered
    ]
    upsert(session, SiteUsage, rows, summed=_AMOUNTS)
    members = [
        _row(use.site, owners[use.site], use.hour, gateway, 0, 0, use.connected_ms) | {"group_name": group}
        for use in ordered
        if use.connected_ms
        for group in sorted(groups.get(use.site, ()))
    ]
    upsert(session, MembershipUsage, members, summed=_AMOUNTS)
    kept = session.get(UsageCursor, gateway)
    if kept is None:
        session.add(UsageCursor(gateway=gateway, cut=told.cut, until=told.until))
    else:
        kept.cut, kept.until = told.cut, told.until


def add_memberships(
    session: Session, caller: Caller, uses: Iterable[MembershipUse], *, gateway: str, hour: datetime
) -> None:
    """Add bytes of flows that ended in this hour. Raises RefusedError: the caller is not the service itself."""
    caller.require_operator()
    found = sorted(uses, key=lambda use: (use.site, use.group))
    owners = _owners(session, {use.site for use in found})
    rows = [
        _row(use.site, owners[use.site], hour, gateway, use.from_site, use.to_site, 0) | {"group_name": use.group}
        for use in found
        if use.site in owners
    ]
    upsert(session, MembershipUsage, rows, summed=_AMOUNTS)


def site_rows(
    session: Session,
    caller: Caller,
    *,
    since: datetime,
    until: datetime,
    by: Period = Period.HOUR,
    tenant: str | None = None,
    site: str | None = None,
) -> list[Usage]:
    """What sites used from ``since`` until before ``until``, all gateways together, by tenant, site and time.

    Raises InputError: no such tenant or site.
    """
    query = _chosen(session, caller, SiteUsage, since=since, until=until, tenant=tenant, site=site)
    return _summed(session, query.order_by(SiteUsage.tenant_id, SiteUsage.site_id, SiteUsage.hour), by)


def membership_rows(
    session: Session,
    caller: Caller,
    *,
    since: datetime,
    until: datetime,
    by: Period = Period.HOUR,
    tenant: str | None = None,
    site: str | None = None,
) -> list[Usage]:
    """The same by membership: what sites used as members of each group. Raises InputError: no such tenant or site."""
    query = _chosen(session, caller, MembershipUsage, since=since, until=until, tenant=tenant, site=site)
    order = (MembershipUsage.tenant_id, MembershipUsage.site_id, MembershipUsage.group_name, MembershipUsage.hour)
    return _summed(session, query.order_by(*order), by)


def prune(session: Session, caller: Caller, *, before: datetime) -> int:
    """Forget the earliest hour that is kept, if it is before this moment; returns how many rows. To be called again
    until there are none: all at once would keep other writers waiting. Raises RefusedError: the caller is not the
    service itself.
    """
    caller.require_operator()
    kept = (session.scalar(select(func.min(table.hour))) for table in (SiteUsage, MembershipUsage))
    oldest = min((hour for hour in kept if hour is not None), default=before)
    until = min(before, oldest + timedelta(hours=1))
    gone = 0
    for table in (SiteUsage, MembershipUsage):
        done = session.execute(delete(table).where(table.hour < until))
        gone += done.rowcount if isinstance(done, CursorResult) else 0
    return gone


def _owners(session: Session, names: set[str]) -> dict[str, str]:
    known = dict(session.execute(select(Site.id, Site.tenant_id)).all())
    return {name: known[name] for name in names if name in known}


def _row(
    site: str, tenant: str, hour: datetime, gateway: str, from_site: int, to_site: int, connected_ms: int
) -> dict[str, object]:
    return {
        "site_id": site,
        "hour": hour,
        "gateway": gateway,
        "tenant_id": tenant,
        "bytes_from_site": from_site,
        "bytes_to_site": to_site,
        "connected_ms": connected_ms,
    }


def _chosen(
    session: Session,
    caller: Caller,
    table: type[SiteUsage] | type[MembershipUsage],
    *,
    since: datetime,
    until: datetime,
    tenant: str | None,
    site: str | None,
) -> Select[Any]:
    group = table.group_name if table is MembershipUsage else func.coalesce(None, "")
    keys = (table.tenant_id, table.site_id, group, table.hour)
    query = select(*keys, *(func.sum(getattr(table, name)) for name in _AMOUNTS))
    query = query.where(table.hour >= since, table.hour < until).group_by(*keys)
    if caller.tenant is not None:
        query = query.where(table.tenant_id == caller.tenant)
    if tenant is not None:
        query = query.where(table.tenant_id == tenants.get(session, caller, tenant).id)
    if site is not None:
        query = query.where(table.site_id == sites.get(session, caller, site).id)
    return query


def _summed(session: Session, query: Select[Any], by: Period) -> list[Usage]:
    found: dict[tuple[str, str, str, datetime], list[int]] = {}
    for tenant, site, group, hour, from_site, to_site, ms in session.execute(query):
        total = found.setdefault((tenant, site, group, _begin(hour, by)), [0, 0, 0])
        for position, amount in enumerate((from_site, to_site, ms)):
            total[position] += int(amount)  # PostgreSQL's sums of bigints are decimals
    return [Usage(*key, *amounts) for key, amounts in found.items()]


def _begin(hour: datetime, by: Period) -> datetime:
    if by is Period.HOUR:
        return hour
    day = hour.replace(hour=0)
    return day if by is Period.DAY else day.replace(day=1)


def month(text: str, zone: datetime) -> tuple[datetime, datetime]:
    """The first instant of a month written as 2026-11, and of the next one; ``zone`` any instant of the wanted zone.

    Raises InputError: not a month.
    """
    try:
        first = datetime.strptime(text, "%Y-%m").replace(tzinfo=zone.tzinfo)
    except ValueError:
        raise InputError("usage.not-a-month", given=text[:40]) from None
    return first, first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)


def months_ago(now: datetime, months: int) -> datetime:
    """The first instant, UTC, of the month so many months ago."""
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(months):
        first = (first - timedelta(days=1)).replace(day=1)
    return first
