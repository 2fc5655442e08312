"""Published releases, as plans need them, and what firmware each site's router says it runs.

What a release is, its signed document says, which routers fetch themselves; here are its sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import names, sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import FirmwareRelease, Site, SiteFirmware
from cloudside.registry.upserts import upsert
from firmware.release import Release

_REASON_MAX_CHARS = 500
#: Of counters and bytes as routers report them: PostgreSQL's bigint.
_NUMBER_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Report:
    """A router's FirmwareState as it is kept; ``modules``: as reported."""

    hardware: str
    version: str
    counter: int
    slot: str
    stage: str
    release: str
    rollout: str
    progress_pct: float | None
    bytes_fetched: int
    since: datetime
    problem: Mapping[str, Any] | None
    modules: Sequence[Mapping[str, Any]]


def publish(session: Session, caller: Caller, release: Release, path: str, now: datetime) -> FirmwareRelease:
    """Take in a release that is in the repository; again: what is new of it. Raises RefusedError: not an operator."""
    caller.require_operator()
    row = session.get(FirmwareRelease, (release.hardware, release.version))
    if row is None:
        row = FirmwareRelease(
            hardware=release.hardware,
            version=release.version,
            published_at=now,
            yanked_at=None,
            yank_reason="",
        )
    row.counter = release.counter
    row.path = path[:200]
    row.minimum_from = release.applicability.minimum_from
    row.disk_mib = release.applicability.disk_mib
    row.full_bytes = release.full.size
    row.deltas = {str(delta.from_counter): delta.file.size for delta in release.deltas}
    session.add(row)
    session.flush()
    return row


def yank(
    session: Session, caller: Caller, *, hardware: str, version: str, reason: str, now: datetime
) -> FirmwareRelease:
    """Take a release back: nobody new gets it, and its rollouts halt. Again: as it was.

    Raises RefusedError: not an operator. InputError: unknown.
    """
    caller.require_operator()
    row = get(session, caller, hardware=hardware, version=version)
    if row.yanked_at is None:
        row.yanked_at = now
        row.yank_reason = reason[:_REASON_MAX_CHARS]
        session.flush()
    return row


def every(session: Session, _caller: Caller) -> list[FirmwareRelease]:
    """All releases, yanked ones too, the newest of each hardware first. They are everybody's."""
    query = select(FirmwareRelease).order_by(FirmwareRelease.hardware, FirmwareRelease.counter.desc())
    return list(session.scalars(query))


def get(session: Session, caller: Caller, *, hardware: str, version: str) -> FirmwareRelease:
    """One release. Raises InputError: unknown."""
    row = session.get(FirmwareRelease, (hardware, version))
    if row is None:
        known = [f"{one.version} ({one.hardware})" for one in every(session, caller)]
        near = names.closest(f"{version} ({hardware})", known)
        raise InputError("registry.unknown-release", version=version[:40], hardware=hardware[:64], known=near)
    return row


def of_version(session: Session, caller: Caller, version: str) -> dict[str, FirmwareRelease]:
    """The releases of a version by hardware, without yanked ones. Raises InputError: none, or all yanked."""
    found = {row.hardware: row for row in every(session, caller) if row.version == version}
    if not found:
        known = {row.version for row in every(session, caller) if row.yanked_at is None}
        raise InputError("registry.unknown-version", version=version[:40], known=names.closest(version, known))
    usable = {hardware: row for hardware, row in found.items() if row.yanked_at is None}
    if not usable:
        reason = next(iter(found.values())).yank_reason
        raise InputError("registry.yanked-version", version=version, reason=reason or "-")
    return usable


def record_state(session: Session, caller: Caller, *, site_id: str, report: Report, now: datetime) -> None:
    """Keep what a router says of its firmware in place of what it said before; the site exists.

    Raises RefusedError: the caller is not the service itself.
    """
    caller.require_operator()
    row = {
        "site_id": site_id,
        "hardware": report.hardware[:64],
        "version": report.version[:40],
        "counter": _bounded(report.counter),
        "slot": report.slot[:1],
        "stage": report.stage[:20],
        "release": report.release[:200],
        "rollout": report.rollout[:80],
        "progress_pct": max(0, min(100, round(report.progress_pct or 0))),
        "bytes_fetched": _bounded(report.bytes_fetched),
        "since": report.since,
        "problem": None if report.problem is None else dict(report.problem),
        "modules": {"modules": [dict(one) for one in report.modules]},
        "reported_at": now,
    }
    upsert(session, SiteFirmware, [row], replaced=[name for name in row if name != "site_id"])


def states(session: Session, caller: Caller) -> dict[str, SiteFirmware]:
    """What the caller's sites last said, by site; sites that never said anything are not in it."""
    return {row.site_id: row for row in session.scalars(_visible(caller))}


def state(session: Session, caller: Caller, site_id: str) -> SiteFirmware | None:
    """What one site last said; None: nothing yet. Raises InputError: unknown site."""
    return session.get(SiteFirmware, sites.get(session, caller, site_id).id)


def _visible(caller: Caller) -> Select[SiteFirmware]:
    query = select(SiteFirmware).order_by(SiteFirmware.site_id)
    if caller.tenant is None:
        return query
    return query.join(Site, Site.id == SiteFirmware.site_id).where(Site.tenant_id == caller.tenant)


def _bounded(number: int) -> int:
    return max(0, min(_NUMBER_MAX, number))
