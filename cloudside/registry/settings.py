"""A site's desired settings: every version kept, with what became of it on the router.

What the keys mean is the fleet's business; here a version is a whole document. A new version replaces an older one
that the router has not taken up yet.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Settings, Site


class State(StrEnum):
    """What became of a version."""

    PENDING = "pending"
    APPLIED = "applied"
    REVERTED = "reverted"


#: Reports arrive more than once, so each state may follow itself. A router that applied a version may still undo it:
#: when the answer to its first heartbeat was lost, it never learnt that the cloud had heard it.
_TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.APPLIED, State.REVERTED}),
    State.APPLIED: frozenset({State.APPLIED, State.REVERTED}),
    State.REVERTED: frozenset({State.REVERTED}),
}


#: Settings that nobody is shown once they are stated: a SIM's PIN, a network's password.
SECRET_KEYS = frozenset({"mobile.pin", "mobile.password"})
HIDDEN = "***"


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for people, programs and the audit log: secrets are there, but not what they are."""
    return {key: HIDDEN if key in SECRET_KEYS else value for key, value in values.items()}


def add_version(
    session: Session, caller: Caller, *, site_id: str, values: Mapping[str, Any], author: str, now: datetime
) -> Settings:
    """State what the site's settings shall be, as a whole. Raises InputError: unknown site."""
    newest = latest(session, caller, site_id)
    version = Settings(
        site_id=site_id,
        version=1 if newest is None else newest.version + 1,
        values=dict(values),
        state=State.PENDING.value,
        problem=None,
        author=author[:100],
        created_at=now,
    )
    session.add(version)
    session.flush()
    return version


def change(
    session: Session, caller: Caller, *, site_id: str, changes: Mapping[str, Any], author: str, now: datetime
) -> Settings:
    """A new version with some keys changed; None takes a key out. Starts from the newest version that was not undone.

    Raises InputError: unknown site.
    """
    values = changed(wanted(session, caller, site_id), changes)
    return add_version(session, caller, site_id=site_id, values=values, author=author, now=now)


def wanted(session: Session, caller: Caller, site_id: str) -> dict[str, Any]:
    """The values that the site shall have: of the newest version that was not undone. Raises InputError: unknown site.

    They hold secrets: `shown` is for people.
    """
    base = session.scalar(_of(session, caller, site_id).where(Settings.state != State.REVERTED.value).limit(1))
    return {} if base is None else dict(base.values)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with changes made to them; None takes a key out."""
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def get(session: Session, caller: Caller, site_id: str, version: int) -> Settings:
    """One version. Raises InputError: unknown site or version."""
    row = session.scalar(_of(session, caller, site_id).where(Settings.version == version))
    if row is None:
        raise InputError("registry.unknown-settings", site=site_id, version=version)
    return row


def withdraw(session: Session, caller: Caller, *, site_id: str, version: int, problem: Mapping[str, Any]) -> bool:
    """Take a version back that the router has not reported on; whether it did. A router that tries it just now and
    keeps it is told to go back: it then runs something that is not wanted. Raises InputError: unknown.
    """
    row = get(session, caller, site_id, version)
    if row.state != State.PENDING.value:
        return False
    _move(session, caller, site_id, version, State.REVERTED, problem)
    return True


def versions(session: Session, caller: Caller, site_id: str) -> list[Settings]:
    """All versions, newest first. Raises InputError: unknown site."""
    return list(session.scalars(_of(session, caller, site_id)))


def latest(session: Session, caller: Caller, site_id: str) -> Settings | None:
    """The newest version, whatever became of it; None: nothing was ever stated. Raises InputError: unknown site."""
    return session.scalar(_of(session, caller, site_id).limit(1))


def latest_of_all(session: Session, caller: Caller) -> dict[str, Settings]:
    """The newest version of every site that has one, by site."""
    newest = select(Settings.site_id, func.max(Settings.version).label("version")).group_by(Settings.site_id).subquery()
    query = (
        select(Settings)
        .join(newest, (newest.c.site_id == Settings.site_id) & (newest.c.version == Settings.version))
        .join(Site, Site.id == Settings.site_id)
    )
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    return {row.site_id: row for row in session.scalars(query)}


def latest_applied(session: Session, caller: Caller, site_id: str) -> Settings | None:
    """The newest version that the router works with; None: its factory settings. Raises InputError: unknown site."""
    return session.scalar(_of(session, caller, site_id).where(Settings.state == State.APPLIED.value).limit(1))


def mark_applied(session: Session, caller: Caller, *, site_id: str, version: int) -> Settings:
    """The router applied the version and reached the cloud afterwards. Raises InputError: unknown, or undone before."""
    return _move(session, caller, site_id, version, State.APPLIED, None)


def mark_reverted(
    session: Session, caller: Caller, *, site_id: str, version: int, problem: Mapping[str, Any]
) -> Settings:
    """The router undid the version; ``problem`` is {key, params}. Raises InputError: unknown."""
    return _move(session, caller, site_id, version, State.REVERTED, problem)


def _of(session: Session, caller: Caller, site_id: str) -> Select[Settings]:
    site = sites.get(session, caller, site_id)
    return select(Settings).where(Settings.site_id == site.id).order_by(Settings.version.desc())


def _move(
    session: Session, caller: Caller, site_id: str, version: int, state: State, problem: Mapping[str, Any] | None
) -> Settings:
    row = get(session, caller, site_id, version)
    if state not in _TRANSITIONS[State(row.state)]:
        raise InputError(
            "registry.settings-transition", site=site_id, version=version, found=row.state, wanted=state.value
        )
    if row.state != state.value:
        row.state = state.value
        row.problem = None if problem is None else dict(problem)
        session.flush()
    return row
