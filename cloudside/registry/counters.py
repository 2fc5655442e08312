"""What statements let pass, and who was refused: told by gateways, asked by people. The rules read none of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Select, delete, func, or_, select
from sqlalchemy.orm import Session

from cloudside.registry import tenants
from cloudside.registry.callers import Caller
from cloudside.registry.counted import Refused, StatementUse
from cloudside.registry.tables import Refusal, StatementCounter, Tenant
from cloudside.registry.upserts import upsert

#: Days that counters are kept: what is used once a year has still been seen.
KEPT_DAYS = 400
#: Refused triples kept for each tenant; the oldest go.
REFUSED_MAX = 500


@dataclass(frozen=True, slots=True)
class Total:
    """A statement's counts over a number of days; ``last_used`` over all the days that are kept."""

    flows: int
    packets: int
    bytes: int
    last_used: datetime


def add_uses(session: Session, caller: Caller, uses: Iterable[StatementUse]) -> None:
    """Add to the counters, and forget what is too old. Raises RefusedError: the caller is not the service itself."""
    caller.require_operator()
    known = set(session.scalars(select(Tenant.id)))
    # In one order, so that two gateways wait for one another and do not block.
    told = sorted((use for use in uses if use.tenant in known), key=lambda use: (use.statement, use.day))
    rows = [
        {
            "tenant_id": use.tenant,
            "statement": use.statement,
            "day": use.day,
            "flows": use.flows,
            "packets": use.packets,
            "bytes": use.bytes,
            "last_used": use.last_used,
        }
        for use in told
    ]
    if not rows:
        return
    upsert(session, StatementCounter, rows, summed=("flows", "packets", "bytes"), replaced=("last_used",))
    oldest = max(use.day for use in told) - timedelta(days=KEPT_DAYS)
    session.execute(delete(StatementCounter).where(StatementCounter.day < oldest))


def add_refused(session: Session, caller: Caller, refused: Iterable[Refused], *, gateway: str) -> None:
    """Keep who was refused; of each tenant the newest. Raises RefusedError: the caller is not the service itself."""
    caller.require_operator()
    known = set(session.scalars(select(Tenant.id)))
    rows = [
        {
            "tenant_id": one.tenant,
            "source_address": one.source_address,
            "destination_address": one.destination_address,
            "service": one.service,
            "gateway": gateway,
            "source": one.source,
            "destination": one.destination,
            "reason": one.reason,
            "params": dict(one.params),
            "statements": " ".join(one.statements),
            "first_seen": one.last_seen,
            "last_seen": one.last_seen,
        }
        for one in sorted(refused, key=lambda one: (one.tenant, one.source_address, one.destination_address))
        if one.tenant in known
    ]
    if not rows:
        return
    key = {column.name for column in Refusal.__table__.primary_key}
    upsert(session, Refusal, rows, replaced=rows[0].keys() - key - {"first_seen"})
    for tenant in sorted({str(row["tenant_id"]) for row in rows}):
        _prune(session, tenant)


def _prune(session: Session, tenant: str) -> None:
    own = select(Refusal.last_seen).where(Refusal.tenant_id == tenant).order_by(Refusal.last_seen.desc())
    if (limit := session.scalar(own.offset(REFUSED_MAX - 1).limit(1))) is not None:
        session.execute(delete(Refusal).where(Refusal.tenant_id == tenant, Refusal.last_seen < limit))


def totals(session: Session, caller: Caller, tenant_id: str, *, since: date) -> dict[str, Total]:
    """What each statement let pass from that day on; statements that let nothing pass are not in it.

    Raises InputError: unknown tenant.
    """
    tenant = tenants.get(session, caller, tenant_id)
    recent = StatementCounter.day >= since
    query = (
        select(
            StatementCounter.statement,
            func.sum(StatementCounter.flows).filter(recent),
            func.sum(StatementCounter.packets).filter(recent),
            func.sum(StatementCounter.bytes).filter(recent),
            func.max(StatementCounter.last_used),
        )
        .where(StatementCounter.tenant_id == tenant.id)
        .group_by(StatementCounter.statement)
    )
    return {
        statement: Total(int(flows or 0), int(packets or 0), int(total or 0), last_used)
        for statement, flows, packets, total, last_used in session.execute(query)
    }


def refused(session: Session, caller: Caller, tenant_id: str, *, site: str | None = None) -> list[Refusal]:
    """Who was refused, the newest first; with ``site`` what came from it, its devices included, or was meant for it.

    Raises InputError: unknown tenant.
    """
    tenant = tenants.get(session, caller, tenant_id)
    query: Select[Refusal] = select(Refusal).where(Refusal.tenant_id == tenant.id)
    if site is not None:
        ends = (Refusal.source, Refusal.destination)
        query = query.where(or_(*(end == site for end in ends), *(end.startswith(f"{site}/") for end in ends)))
    order = (Refusal.last_seen.desc(), Refusal.source, Refusal.destination, Refusal.service)
    return list(session.scalars(query.order_by(*order)))


def refused_by_statement(rows: Iterable[Refusal]) -> Mapping[str, tuple[int, datetime]]:
    """How many triples each deny statement refused, and when last."""
    found: dict[str, tuple[int, datetime]] = {}
    for row in rows:
        for statement in row.statements.split():
            count, last = found.get(statement, (0, row.last_seen))
            found[statement] = (count + 1, max(last, row.last_seen))
    return found
