"""What became of tunnels over time, and what last kept a site from being connected.

Gateways write it, and routers' reports; nothing here says what is wanted. Rows go by age (`prune`), and a site whose
line flaps writes no more than MOST_CHANGES_AN_HOUR.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site, SiteProblem, TunnelChange

#: Rows that one site writes in an hour. What is over is left out; the tunnel's state itself is kept elsewhere.
MOST_CHANGES_AN_HOUR = 60
#: A problem that was away longer than this and comes again is a new one, in seconds.
SAME_PROBLEM_S = 3600.0
#: Names in one IN clause; SQLite takes 32,766 parameters at most (SQLITE_MAX_VARIABLE_NUMBER).
_CHUNK = 1000
#: Rows deleted in one transaction: others wait that long for the writers' lock.
PRUNE_AT_ONCE = 5000

_Name = TypeVar("_Name", str, int)

#: SiteProblem.seen_by of what routers say of themselves.
ROUTER = "router"


def gateway_witness(gateway: str) -> str:
    """SiteProblem.seen_by of what a gateway saw."""
    return f"gateway/{gateway}"


@dataclass(frozen=True, slots=True)
class Change:
    """A tunnel came up or went away. ``cause`` of a loss: a message key, "" when none is known."""

    site_id: str
    at: datetime
    up: bool
    peer: str = ""
    cause: str = ""
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A problem of a site as somebody saw it."""

    site_id: str
    key: str
    params: Mapping[str, Any]
    at: datetime


def known_sites(session: Session, caller: Caller, names: Iterable[str]) -> frozenset[str]:
    """Those of these names that are sites of the caller."""
    found: set[str] = set()
    query = sites.visible(caller).with_only_columns(Site.id)
    for chunk in chunks(names):
        found.update(session.scalars(query.where(Site.id.in_(chunk))))
    return frozenset(found)


def chunks(names: Iterable[_Name]) -> Iterator[Sequence[_Name]]:
    """Names or numbers in pieces that one statement can take."""
    ordered = list(dict.fromkeys(names))
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]


def add_changes(session: Session, caller: Caller, changes: Sequence[Change], *, gateway: str, now: datetime) -> int:
    """Write changes of existing sites; returns how many were left out because their site writes too many.

    Raises RefusedError: the caller is not the service itself.
    """
    caller.require_operator()
    counts: dict[str, int] = {}
    for chunk in chunks(change.site_id for change in changes):
        recent = (
            select(TunnelChange.site_id, func.count())
            .where(TunnelChange.site_id.in_(chunk), TunnelChange.at > now - timedelta(hours=1))
            .group_by(TunnelChange.site_id)
        )
        counts.update((site, number) for site, number in session.execute(recent))
    rows = []
    for change in changes:
        counts[change.site_id] = counts.get(change.site_id, 0) + 1
        if counts[change.site_id] <= MOST_CHANGES_AN_HOUR:
            rows.append({
                "site_id": change.site_id, "gateway": gateway, "at": change.at, "up": change.up,
                "peer": change.peer[:60], "cause": change.cause[:60], "params": dict(change.params or {}),
            })  # fmt: skip
    if rows:
        session.execute(insert(TunnelChange), rows)
    return len(changes) - len(rows)


def changes(
    session: Session, caller: Caller, site_id: str, *, since: datetime, most: int = 10_000
) -> list[TunnelChange]:
    """A site's changes from ``since`` on, oldest first, the newest ``most`` of them. Raises InputError: unknown."""
    site = sites.get(session, caller, site_id)
    query = (
        select(TunnelChange)
        .where(TunnelChange.site_id == site.id, TunnelChange.at >= since)
        .order_by(TunnelChange.at.desc(), TunnelChange.id.desc())
        .limit(most)
    )
    return list(session.scalars(query))[::-1]


def states_before(session: Session, caller: Caller, site_id: str, *, at: datetime) -> dict[str, bool]:
    """How each gateway had the site's tunnel at an instant, as far as rows say. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    newest = (
        select(func.max(TunnelChange.id))
        .where(TunnelChange.site_id == site.id, TunnelChange.at < at)
        .group_by(TunnelChange.gateway)
    )
    query = select(TunnelChange.gateway, TunnelChange.up).where(TunnelChange.id.in_(newest))
    return {row.gateway: row.up for row in session.execute(query)}


def record_problems(session: Session, caller: Caller, found: Sequence[Seen], *, seen_by: str) -> None:
    """Keep each site's problem in place of what this witness saw before; sites must exist.

    ``since`` moves when it is another problem, or the same after a long time. Raises RefusedError: the caller is not
    the service itself.
    """
    caller.require_operator()
    newest = {one.site_id: one for one in found}
    before: dict[str, tuple[str, datetime, datetime]] = {}
    for chunk in chunks(newest):
        query = select(SiteProblem.site_id, SiteProblem.key, SiteProblem.since, SiteProblem.seen_at).where(
            SiteProblem.seen_by == seen_by, SiteProblem.site_id.in_(chunk)
        )
        before.update((site, (key, since, seen)) for site, key, since, seen in session.execute(query))
    added: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for site, one in newest.items():
        since = one.at
        if site in before and before[site][0] == one.key:
            _, began, seen = before[site]
            since = began if (one.at - seen).total_seconds() <= SAME_PROBLEM_S else one.at
        row = {
            "site_id": site, "seen_by": seen_by, "key": one.key[:60], "params": dict(one.params), "since": since,
            "seen_at": one.at,
        }  # fmt: skip
        (changed if site in before else added).append(row)
    if added:
        session.execute(insert(SiteProblem), added)
    if changed:
        session.execute(update(SiteProblem), changed)


def problems(session: Session, caller: Caller, site_id: str) -> list[SiteProblem]:
    """What last kept a site from being connected, the newest first. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    query = select(SiteProblem).where(SiteProblem.site_id == site.id).order_by(SiteProblem.seen_at.desc())
    return list(session.scalars(query))


def problems_of_all(session: Session, caller: Caller, *, since: datetime) -> dict[str, SiteProblem]:
    """Of each site the newest problem that was seen from ``since`` on."""
    query = select(SiteProblem).where(SiteProblem.seen_at >= since).order_by(SiteProblem.seen_at)
    if caller.tenant is not None:
        query = query.join(Site, Site.id == SiteProblem.site_id).where(Site.tenant_id == caller.tenant)
    return {row.site_id: row for row in session.scalars(query)}


def prune(session: Session, caller: Caller, *, before: datetime) -> int:
    """Forget changes and problems older than ``before``, PRUNE_AT_ONCE at most; returns how many: 0 is the end.

    Raises RefusedError: the caller is not the service itself.
    """
    caller.require_operator()
    oldest = select(TunnelChange.id).where(TunnelChange.at < before).limit(PRUNE_AT_ONCE)
    gone = session.scalars(oldest).all()
    for chunk in chunks(gone):
        session.execute(delete(TunnelChange).where(TunnelChange.id.in_(chunk)))
    stale = session.execute(
        select(SiteProblem.site_id, SiteProblem.seen_by).where(SiteProblem.seen_at < before).limit(PRUNE_AT_ONCE)
    ).all()
    for site, seen_by in stale:
        session.execute(delete(SiteProblem).where(SiteProblem.site_id == site, SiteProblem.seen_by == seen_by))
    return len(gone) + len(stale)
