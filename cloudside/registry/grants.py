"""Grants: reachability for a limited time beside a tenant's policy, for a visit. Nothing is ever forgotten.

A grant opens what its words say when it is written, at most; whoever compiles grants holds their names and addresses
against the inventory of that moment, because a site may be revoked meanwhile. The platform's file stands above grants
too. Neither is judged here.
"""

import re
from datetime import datetime, timedelta
from ipaddress import IPv4Address, ip_network

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

import rules.model
from cloudside.errors import InputError, combined
from cloudside.registry import inventory, names, tenants
from cloudside.registry.addresses import Network, contains, first_overlap
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Grant, Tenant
from rules.model import Endpoint, Inventory, Kind, Service, endpoints
from rules.names import never_passes
from rules.services import BUILT_IN, merged, numeric

#: The longest grant. What has to be open for longer belongs into the policy, where others review it.
LONGEST = timedelta(days=7)
#: Column widths, in characters.
SERVICES_MAX_CHARS = 500
REASON_MAX_CHARS = 500

_SEPARATOR = re.compile(r"[,\s]+")


def add(
    session: Session,
    caller: Caller,
    *,
    grant_id: str,
    tenant_id: str,
    source: str,
    destination: str,
    services: str,
    starts_at: datetime,
    ends_at: datetime,
    reason: str,
    author: str,
    overlay: Network,
    now: datetime,
    reserved: tuple[Network, ...] = (),
) -> Grant:
    """Let ``source`` reach ``destination`` from ``starts_at`` until ``ends_at``.

    Both are names as the tenant's policy uses them, groups excepted; ``source`` may be a single IPv4 address of the
    overlay, of one of the tenant's active sites or of nobody (``reserved`` are the gateways' own). ``services`` are
    numbers and built-in names with commas or blanks between. ``grant_id`` is up to 32 hexadecimal digits, random.
    Raises InputError (or InputErrors): unknown tenant or name; bad services; no time, a time that is over or longer
    than LONGEST; no reason; nothing can pass between the two.
    """
    tenant = tenants.get(session, caller, tenant_id)
    known = _endpoints(session, tenant.id)
    problems: list[InputError] = []
    start = _address(session, tenant, known, source, overlay, reserved, problems)
    if start is None and not problems:
        start = _named(tenant.id, known, source, problems)
    goal = _named(tenant.id, known, destination, problems)
    if start is not None and goal is not None and never_passes(start, goal) is not None:
        problems.append(InputError("registry.grant-passes-nothing", source=source, destination=destination))
    problems += _service_problems(services)
    problems += _time_problems(starts_at, ends_at, now)
    if not reason.strip() or len(reason) > REASON_MAX_CHARS:
        problems.append(InputError("registry.grant-reason", longest=REASON_MAX_CHARS))
    if problems or start is None or goal is None:
        raise combined(problems)
    grant = Grant(
        id=grant_id,
        tenant_id=tenant.id,
        source=start.name,
        destination=goal.name,
        services=services.strip(),
        starts_at=starts_at,
        ends_at=ends_at,
        reason=reason.strip(),
        author=author[:100],
        created_at=now,
        ended_at=None,
    )
    session.add(grant)
    session.flush()
    return grant


def visible(caller: Caller) -> Select[Grant]:
    """All grants that exist for the caller, those that start last first."""
    query = select(Grant).order_by(Grant.starts_at.desc(), Grant.id)
    return query if caller.tenant is None else query.where(Grant.tenant_id == caller.tenant)


def every(session: Session, caller: Caller, *, tenant_id: str | None = None) -> list[Grant]:
    """All grants that exist for the caller, or those of one tenant; past ones too, those that start last first."""
    query = visible(caller)
    return list(session.scalars(query if tenant_id is None else query.where(Grant.tenant_id == tenant_id)))


def active(session: Session, caller: Caller, *, now: datetime) -> list[Grant]:
    """The grants that hold at ``now``."""
    return list(session.scalars(_open(visible(caller), now).where(Grant.starts_at <= now)))


def for_rules(row: Grant) -> rules.model.Grant:
    """The grant as the rules take it. Raises ValueError like ``services_of``."""
    services = services_of(row.services)
    return rules.model.Grant(row.id, row.tenant_id, row.source, row.destination, services, row.ends_at)


def next_start(session: Session, caller: Caller, *, now: datetime) -> datetime | None:
    """When the next grant begins to hold, after ``now``; None: none is waiting."""
    waiting = _open(visible(caller), now).where(Grant.starts_at > now).order_by(None)
    return session.scalar(waiting.with_only_columns(func.min(Grant.starts_at)))


def get(session: Session, caller: Caller, grant_id: str) -> Grant:
    """One grant. Raises InputError: unknown, or another tenant's."""
    grant = session.scalar(visible(caller).where(Grant.id == grant_id))
    if grant is None:
        raise InputError("registry.unknown-grant", grant=grant_id[:32])
    return grant


def end(session: Session, caller: Caller, *, grant_id: str, now: datetime) -> Grant:
    """End a grant before its time. One that is over stays as it is. Raises InputError: unknown, or another tenant's."""
    grant = get(session, caller, grant_id)
    if grant.ended_at is None and now < grant.ends_at:
        grant.ended_at = now
        session.flush()
    return grant


def services_of(text: str) -> tuple[Service, ...]:
    """What a grant's services mean, merged. Raises ValueError: not ours; ``add`` took none such in."""
    found: list[Service] = []
    for word in _words(text):
        service = numeric(word)
        if service is None and word not in BUILT_IN:
            raise ValueError(word)
        found.extend(BUILT_IN[word] if service is None else (service,))
    return merged(found)


def _open(query: Select[Grant], now: datetime) -> Select[Grant]:
    return query.where(Grant.ended_at.is_(None), Grant.ends_at > now)


def _words(text: str) -> list[str]:
    return [word for word in _SEPARATOR.split(text) if word]


def _endpoints(session: Session, tenant_id: str) -> dict[str, Endpoint]:
    """What the tenant's policy may name."""
    own, shared = inventory.load_tenant(session, tenant_id), inventory.load_shared(session)
    if own is None:
        return {}
    return endpoints(Inventory({own.tenant: own.block}, own.sites, own.devices, (*own.servers, *shared.servers)))


def _named(tenant: str, known: dict[str, Endpoint], name: str, problems: list[InputError]) -> Endpoint | None:
    found = known.get(name)
    if found is None:
        near = names.closest(name[:120], known)
        problems.append(InputError("registry.grant-unknown-name", name=name[:120], tenant=tenant, known=near))
    return found


def _address(
    session: Session,
    tenant: Tenant,
    known: dict[str, Endpoint],
    source: str,
    overlay: Network,
    reserved: tuple[Network, ...],
    problems: list[InputError],
) -> Endpoint | None:
    """A source given as an address. What else lives there is told in the same words whoever it belongs to."""
    try:
        address = IPv4Address(source.strip())
    except ValueError:
        return None
    home = next((one for one in known.values() if one.kind is not Kind.DEVICE and address in one.network), None)
    if home is not None:
        return Endpoint(str(address), home.kind, home.tenant, ip_network(address), home.site)
    host = ip_network(address)
    taken = [*tenants.taken(session), *((str(prefix), prefix) for prefix in reserved)]
    if not contains(overlay, host) or first_overlap(host, taken) is not None:
        problems.append(InputError("registry.grant-address", address=str(address), tenant=tenant.id))
        return None
    return Endpoint(str(address), Kind.DEVICE, tenant.id, host, None)


def _service_problems(text: str) -> list[InputError]:
    words = _words(text)
    if not words or len(text) > SERVICES_MAX_CHARS:
        return [InputError("registry.grant-services", longest=SERVICES_MAX_CHARS)]
    problems: list[InputError] = []
    for word in words:
        try:
            services_of(word)
        except ValueError:
            near = names.closest(word, BUILT_IN)
            problems.append(InputError("registry.grant-unknown-service", service=word[:80], known=near))
    return problems


def _time_problems(starts_at: datetime, ends_at: datetime, now: datetime) -> list[InputError]:
    shown = {"start": starts_at.isoformat(timespec="minutes"), "end": ends_at.isoformat(timespec="minutes")}
    if ends_at <= starts_at:
        return [InputError("registry.grant-ends-first", **shown)]
    problems = [InputError("registry.grant-is-over", end=shown["end"])] if ends_at <= now else []
    if ends_at - starts_at > LONGEST:
        problems.append(InputError("registry.grant-too-long", days=LONGEST.days, **shown))
    return problems
