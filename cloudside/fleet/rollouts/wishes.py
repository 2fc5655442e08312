"""What people want of rollouts: a dry run, a start, a pause, to go on, the end. One registry session each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from cloudside.alerts import incidents
from cloudside.errors import InputError
from cloudside.fleet.rollouts import plan as planning
from cloudside.fleet.rollouts.machine import TRANSITIONS, Move, State
from cloudside.fleet.rollouts.model import Plan, forgiving, plan_document, read_plan
from cloudside.fleet.rollouts.plan import DryRun, Offerable, Place
from cloudside.registry import labels, releases, rollouts
from cloudside.registry.callers import Caller
from cloudside.registry.tables import FirmwareRelease, Rollout

INCIDENT = "rollout-halted"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the caller's sites; what is empty restricts nothing. ``labels``: all of them have to fit."""

    sites: Collection[str] = ()
    tenant: str = ""
    hardware: str = ""
    labels: Mapping[str, str] | None = None


def draft(session: Session, caller: Caller, *, version: str, plan: Plan, selection: Selection, now: datetime) -> DryRun:
    """The dry run of the caller's next rollout of a version. Raises InputError: unknown version, hardware or site."""
    found = releases.of_version(session, caller, version)
    if selection.hardware and selection.hardware not in found:
        known = ", ".join(sorted(found))
        raise InputError("registry.unknown-release", version=version, hardware=selection.hardware[:64], known=known)
    places = _places(session, caller, selection)
    offerable = {hardware: _offerable(row) for hardware, row in found.items()}
    taken = rollouts.taken(session, [place.site for place in places])
    rollout = rollouts.next_id(session, caller, version)
    return planning.draft(rollout, places, offerable, plan, taken=taken, now=now)


def start(
    session: Session, caller: Caller, *, version: str, plan: Plan, selection: Selection, author: str, now: datetime
) -> tuple[Rollout, DryRun]:
    """State a rollout as its dry run says; the worker begins it. Raises InputError as draft; nobody would get it."""
    dry = draft(session, caller, version=version, plan=plan, selection=selection, now=now)
    if not dry.planned:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(dry.out_counts().items())) or "-"
        raise InputError("rollout.nobody", version=version, counts=counts)
    targets = [
        {
            "site_id": one.place.site,
            "ring": one.ring,
            "path": one.path,
            "counter": one.counter,
            "from_version": one.place.version[:40],
            "exclusive": one.place.exclusive,
        }
        for one in dry.planned
    ]
    row = rollouts.add(
        session,
        caller,
        rollout_id=dry.rollout,
        version=version,
        plan=plan_document(plan),
        targets=targets,
        author=author,
        now=now,
    )
    return row, dry


def pause(session: Session, caller: Caller, rollout_id: str) -> Rollout:
    """Nobody new gets an offer. Raises InputError: unknown, or it does not go on anyway."""
    return _move(session, rollouts.get(session, caller, rollout_id), Move.PAUSE)


def resume(session: Session, caller: Caller, rollout_id: str, *, now: datetime) -> Rollout:
    """Go on. After a halt: whoever says so has seen what failed until now, and it counts no more.

    Raises InputError: unknown, it was not stopped, or its release was yanked.
    """
    row = rollouts.get(session, caller, rollout_id)
    was_halted = row.state == State.HALTED
    _move(session, row, Move.RESUME)
    releases.of_version(session, caller, row.version)
    if was_halted:
        row.plan = plan_document(forgiving(read_plan(row.plan), now))
        row.cause = None
        incidents.close_incident(session, INCIDENT, row.id, now)
    session.flush()
    return row


def abort(session: Session, caller: Caller, rollout_id: str, *, now: datetime) -> Rollout:
    """End it for good; offers are withdrawn. Raises InputError: unknown, or it has ended."""
    row = _move(session, rollouts.get(session, caller, rollout_id), Move.ABORT)
    row.ended_at = now
    incidents.close_incident(session, INCIDENT, row.id, now)
    changed = [
        {"rollout_id": row.id, "site_id": target.site_id, "state": "withdrawn", "settled_at": now}
        for target in rollouts.targets(session, caller, row.id)
        if target.state in ("waiting", "offered")
    ]
    session.flush()
    rollouts.record_targets(session, changed)
    return row


def _move(session: Session, row: Rollout, move: Move) -> Rollout:
    after = TRANSITIONS[State(row.state)].get(move)
    if after is None:
        raise InputError("rollout.cannot", rollout=row.id, state=row.state, move=move.value)
    row.state = after.value
    session.flush()
    return row


def _places(session: Session, caller: Caller, selection: Selection) -> list[Place]:
    words, exclusive = labels.every(session, caller), labels.exclusive(session, caller)
    rows = rollouts.fleet(session, caller)
    if selection.sites:
        unknown = sorted(set(selection.sites) - {row.site for row in rows})
        if unknown:
            raise InputError("rollout.no-such-site", sites=", ".join(unknown)[:200])
    wanted = dict(selection.labels or {})
    found = []
    for row in rows:
        own = words.get(row.site, {})
        fits = (
            (not selection.sites or row.site in selection.sites)
            and selection.tenant in ("", row.tenant)
            and (selection.hardware in ("", row.hardware))
            and all(own.get(key) == value for key, value in wanted.items())
        )
        if fits:
            found.append(
                Place(
                    row.site, row.tenant, row.hardware, row.version, row.counter, row.heard_at, row.uplink, own,
                    exclusive.get(row.site, ""),
                )
            )  # fmt: skip
    return found


def _offerable(row: FirmwareRelease) -> Offerable:
    deltas = {int(counter): int(size) for counter, size in row.deltas.items()}
    return Offerable(row.path, row.counter, row.minimum_from, row.full_bytes, deltas)
