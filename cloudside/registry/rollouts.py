"""Rollouts as they stand: what was decided, each target, and what was seen of their sites. Rows, no decisions.

An operator's rollout is over all tenants, a tenant's over its own sites; a tenant sees its own only. What may follow
what, fleet.rollouts says.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import history, names
from cloudside.registry.callers import Caller
from cloudside.registry.tables import (
    FirmwareRelease,
    Grant,
    Heartbeat,
    Rollout,
    RolloutProgress,
    RolloutTarget,
    Site,
    SiteFirmware,
    Tunnel,
)
from cloudside.registry.upserts import upsert

#: States in which a rollout still concerns its sites; fleet.rollouts.machine.ALIVE.
UNFINISHED = ("planned", "running", "soaking", "paused", "halted")
#: States in which sites whose turn it is are offered the release; fleet.rollouts.machine.OFFERING.
OFFERING = ("running", "soaking", "paused")
#: Of a target whose turn it is.
OFFERED = "offered"
_PHASES = ("construction", "commissioning", "operation")


@dataclass(frozen=True, slots=True)
class FleetRow:
    """A site that may be rolled out to, as stated and as last seen. ``hardware`` empty: it never said."""

    site: str
    tenant: str
    timezone: str
    hardware: str
    version: str
    counter: int
    heard_at: datetime | None
    #: wired, mobile, none; empty: it never said.
    uplink: str


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A site of a rollout as it stands; ``timezone`` is the site's."""

    site_id: str
    timezone: str
    ring: int
    state: str
    path: str
    counter: int
    exclusive: str
    offered_at: datetime | None
    settled_at: datetime | None
    cause: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class SeenRow:
    """What was last heard of a site. ``down_since``: when the last of its tunnels went down; None: one is up, or no
    gateway knows of any."""

    site: str
    heard_at: datetime
    down_since: datetime | None
    counter: int
    stage: str
    release: str
    rollout: str
    problem: Mapping[str, Any] | None


def visible(caller: Caller) -> Select[Rollout]:
    """All rollouts that exist for the caller, newest first."""
    query = select(Rollout).order_by(Rollout.created_at.desc(), Rollout.id)
    return query if caller.tenant is None else query.where(Rollout.tenant_id == caller.tenant)


def every(session: Session, caller: Caller, *, most: int = 1000) -> list[Rollout]:
    """The newest ``most`` of them."""
    return list(session.scalars(visible(caller).limit(most)))


def unfinished(session: Session, caller: Caller) -> list[Rollout]:
    """Those that go on, or would after a person's word; oldest first."""
    query = visible(caller).where(Rollout.state.in_(UNFINISHED)).order_by(None)
    return list(session.scalars(query.order_by(Rollout.created_at, Rollout.id)))


def get(session: Session, caller: Caller, rollout_id: str) -> Rollout:
    """One rollout. Raises InputError: unknown, or another tenant's."""
    row = session.scalar(visible(caller).where(Rollout.id == rollout_id))
    if row is None:
        known = names.closest(rollout_id, session.scalars(visible(caller).with_only_columns(Rollout.id).limit(1000)))
        raise InputError("registry.unknown-rollout", rollout=rollout_id[:80], known=known)
    return row


def next_id(session: Session, caller: Caller, version: str) -> str:
    """The name of the caller's next rollout of a version: the dry run's rings are those of the rollout itself."""
    prefix = version if caller.tenant is None else f"{caller.tenant}-{version}"
    owner = Rollout.tenant_id.is_(None) if caller.tenant is None else Rollout.tenant_id == caller.tenant
    count = session.scalar(select(func.count()).select_from(Rollout).where(Rollout.version == version, owner)) or 0
    return f"{prefix}-{count + 1}"


def add(
    session: Session,
    caller: Caller,
    *,
    rollout_id: str,
    version: str,
    plan: Mapping[str, Any],
    targets: Sequence[Mapping[str, Any]],
    author: str,
    now: datetime,
) -> Rollout:
    """State a rollout. ``targets``: site_id, ring, path, counter, from_version, exclusive of each.

    Raises InputError: a site that is not the caller's.
    """
    wanted = [str(target["site_id"]) for target in targets]
    foreign = set(wanted) - history.known_sites(session, caller, wanted)
    if foreign:
        raise InputError("registry.unknown-site", site=min(foreign)[:80], known="-")
    row = Rollout(
        id=rollout_id,
        tenant_id=caller.tenant,
        version=version,
        state="planned",
        plan=dict(plan),
        ring=0,
        soak_since=None,
        cause=None,
        author=author[:100],
        created_at=now,
        ended_at=None,
    )
    session.add(row)
    session.flush()
    session.execute(
        insert(RolloutTarget),
        [
            {**target, "rollout_id": row.id, "state": "waiting", "offered_at": None, "settled_at": None, "cause": None}
            for target in targets
        ],
    )
    return row


def targets(session: Session, caller: Caller, rollout_id: str) -> list[TargetRow]:
    """A rollout's targets by site, columns and not objects: there are thousands. Raises InputError: unknown rollout."""
    found = get(session, caller, rollout_id)
    one = RolloutTarget
    columns = (
        one.site_id, Site.timezone, one.ring, one.state, one.path, one.counter, one.exclusive, one.offered_at,
        one.settled_at, one.cause,
    )  # fmt: skip
    query = select(*columns).join(Site, Site.id == one.site_id).where(one.rollout_id == found.id).order_by(one.site_id)
    return [TargetRow(*row) for row in session.execute(query)]


def counts(session: Session, caller: Caller, rollout_id: str) -> dict[tuple[int, str], int]:
    """How many of a rollout's targets are in each (ring, state). Raises InputError: unknown rollout."""
    found = get(session, caller, rollout_id)
    query = (
        select(RolloutTarget.ring, RolloutTarget.state, func.count())
        .where(RolloutTarget.rollout_id == found.id)
        .group_by(RolloutTarget.ring, RolloutTarget.state)
    )
    return {(ring, state): count for ring, state, count in session.execute(query)}


def record_targets(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep targets that have changed: rollout_id, site_id and what is new of each. The worker's."""
    if rows:
        session.execute(update(RolloutTarget), [dict(row) for row in rows])


def record_progress(session: Session, rollout_id: str, report: Mapping[str, Any], now: datetime) -> None:
    """Keep where a rollout stands. The worker's."""
    row = {"rollout_id": rollout_id, "at": now, "report": dict(report)}
    upsert(session, RolloutProgress, [row], replaced=("at", "report"))


def progress(session: Session, caller: Caller, rollout_id: str) -> RolloutProgress | None:
    """Where it stood at its last step; None: there was none yet. Raises InputError: unknown rollout."""
    return session.get(RolloutProgress, get(session, caller, rollout_id).id)


def taken(session: Session, site_ids: Iterable[str]) -> dict[str, str]:
    """Sites of these that belong to an unfinished rollout, whoever's: site -> rollout. The service's own question."""
    found: dict[str, str] = {}
    query = (
        select(RolloutTarget.site_id, RolloutTarget.rollout_id)
        .join(Rollout, Rollout.id == RolloutTarget.rollout_id)
        .where(Rollout.state.in_(UNFINISHED))
    )
    for chunk in history.chunks(site_ids):
        rows = session.execute(query.where(RolloutTarget.site_id.in_(chunk)))
        found.update((site, rollout) for site, rollout in rows)
    return found


def at_work(session: Session, *, but: str) -> frozenset[str]:
    """Sites whose turn it is in another rollout. The service's own question."""
    query = (
        select(RolloutTarget.site_id)
        .join(Rollout, Rollout.id == RolloutTarget.rollout_id)
        .where(Rollout.state.in_(UNFINISHED), Rollout.id != but, RolloutTarget.state == OFFERED)
    )
    return frozenset(session.scalars(query))


def offered_to(session: Session, site_id: str) -> tuple[Rollout, RolloutTarget] | None:
    """The rollout whose turn this site is, and its target there; None: it is no site's turn. One look-up by index.

    A release that was taken back is nobody's offer from that moment on; its rollout halts when the worker looks.
    """
    yanked = select(FirmwareRelease.path).where(
        FirmwareRelease.path == RolloutTarget.path, FirmwareRelease.yanked_at.is_not(None)
    )
    query = (
        select(Rollout, RolloutTarget)
        .join(Rollout, Rollout.id == RolloutTarget.rollout_id)
        .where(RolloutTarget.site_id == site_id, RolloutTarget.state == OFFERED, Rollout.state.in_(OFFERING))
        .where(~yanked.exists())
        .order_by(Rollout.created_at)
        .limit(1)
    )
    found = session.execute(query).first()
    return None if found is None else (found[0], found[1])


def fleet(session: Session, caller: Caller) -> list[FleetRow]:
    """The caller's sites that a rollout may go to: in service and not revoked, by name."""
    query = (
        select(
            Site.id, Site.tenant_id, Site.timezone, SiteFirmware.hardware, SiteFirmware.version, SiteFirmware.counter,
            Heartbeat.received_at, Heartbeat.report["uplink"]["kind"].as_string(),
        )
        .outerjoin(SiteFirmware, SiteFirmware.site_id == Site.id)
        .outerjoin(Heartbeat, Heartbeat.site_id == Site.id)
        .where(Site.revoked_at.is_(None), Site.phase.in_(_PHASES))
        .order_by(Site.id)
    )  # fmt: skip
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    return [
        FleetRow(site, tenant, zone, hardware or "", version or "", counter or 0, heard, uplink or "")
        for site, tenant, zone, hardware, version, counter, heard, uplink in session.execute(query)
    ]


def seen(session: Session, rollout_id: str, partners: Collection[str] = ()) -> list[SeenRow]:
    """What was last heard of a rollout's sites and of ``partners``; sites that never reported are not in it.

    The worker's question.
    """
    down = _down_since(session)
    columns = (
        Heartbeat.site_id, Heartbeat.received_at, SiteFirmware.counter, SiteFirmware.stage, SiteFirmware.release,
        SiteFirmware.rollout, SiteFirmware.problem,
    )  # fmt: skip
    query = select(*columns).outerjoin(SiteFirmware, SiteFirmware.site_id == Heartbeat.site_id)
    own = query.join(RolloutTarget, RolloutTarget.site_id == Heartbeat.site_id)
    found = list(session.execute(own.where(RolloutTarget.rollout_id == rollout_id)))
    for chunk in history.chunks(partners):
        found += session.execute(query.where(Heartbeat.site_id.in_(chunk)))
    return [
        SeenRow(site, heard, down.get(site), counter or 0, stage or "", release or "", rollout or "", problem)
        for site, heard, counter, stage, release, rollout, problem in found
    ]


def open_visits(session: Session, site_id: str, now: datetime) -> bool:
    """Whether a grant is open that names the site or a device of it: somebody is at work there."""
    named = [
        condition
        for end in (Grant.source, Grant.destination)
        for condition in (end == site_id, end.startswith(f"{site_id}/", autoescape=True))
    ]
    query = select(Grant.id).where(
        Grant.ended_at.is_(None), Grant.starts_at <= now, Grant.ends_at > now, named[0] | named[1] | named[2] | named[3]
    )
    return session.scalar(query.limit(1)) is not None


def _down_since(session: Session) -> dict[str, datetime]:
    """Sites none of whose tunnels is up, and since when. Most are up: only those that are not come back."""
    rows = select(Tunnel.site_id, func.max(Tunnel.since)).group_by(Tunnel.site_id)
    alive = select(Tunnel.site_id).where(Tunnel.up)
    query = rows.where(Tunnel.site_id.not_in(alive))
    found: dict[str, datetime] = {}
    found.update((site, since) for site, since in session.execute(query))
    return found
