"""Diagnostic commands for routers: who asked what and why, and what came of it. Each runs once, or never."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, RefusedError
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site, SiteCommand

REASON_MAX_CHARS = 500


class CommandState(StrEnum):
    """What became of a command."""

    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"
    TIMED_OUT = "timed-out"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"
    FAILED = "failed"


def ask(
    session: Session,
    caller: Caller,
    *,
    command_id: str,
    site_id: str,
    name: str,
    arguments: Mapping[str, str | int],
    reason: str,
    timeout_s: int,
    requested_by: str,
    expires_at: datetime,
    now: datetime,
    tenants_may: frozenset[str] = frozenset(),
) -> SiteCommand:
    """Leave a command for a site's router. ``command_id``: 32 hexadecimal digits, random. ``tenants_may``: commands
    that a tenant's administrator may give.

    Raises InputError: unknown site, or no reason. RefusedError: the caller is not an operator.
    """
    site = sites.get(session, caller, site_id)
    if caller.tenant is not None and name not in tenants_may:
        raise RefusedError("commands.operators-only", command=name[:40], tenant=caller.tenant)
    if not reason.strip():
        raise InputError("commands.no-reason", site=site.id, command=name[:40])
    command = SiteCommand(
        id=command_id,
        site_id=site.id,
        name=name,
        arguments=dict(arguments),
        reason=reason.strip()[:REASON_MAX_CHARS],
        timeout_s=timeout_s,
        requested_by=requested_by[:100],
        requested_at=now,
        expires_at=expires_at,
        state=CommandState.WAITING.value,
        answered_at=None,
        status=None,
        output=None,
        truncated=False,
        began_at=None,
        duration_ms=None,
        problem=None,
    )
    session.add(command)
    session.flush()
    return command


def get(session: Session, caller: Caller, command_id: str) -> SiteCommand:
    """One command. Raises InputError: unknown, or another tenant's."""
    command = session.scalar(_visible(caller).where(SiteCommand.id == command_id))
    if command is None:
        raise InputError("commands.unknown-id", command=command_id[:32])
    return command


def of_site(session: Session, caller: Caller, site_id: str, *, most: int) -> list[SiteCommand]:
    """A site's commands, newest first. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    return list(session.scalars(_visible(caller).where(SiteCommand.site_id == site.id).limit(most)))


def waiting(session: Session, caller: Caller, site_id: str, *, now: datetime) -> list[SiteCommand]:
    """What the router has not answered and may still begin, oldest first. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    query = _visible(caller).where(
        SiteCommand.site_id == site.id, SiteCommand.state == CommandState.WAITING.value, SiteCommand.expires_at > now
    )
    return list(session.scalars(query.order_by(None).order_by(SiteCommand.requested_at)))


def answer(
    session: Session,
    caller: Caller,
    *,
    command_id: str,
    site_id: str,
    state: CommandState,
    status: int | None,
    output: str,
    truncated: bool,
    began_at: datetime | None,
    duration_ms: int | None,
    problem: Mapping[str, Any] | None,
    now: datetime,
) -> SiteCommand:
    """Keep what the router says of a command. The first answer stays, but one that was given up may still be answered.

    Raises InputError: unknown, or not this site's.
    """
    command = session.scalar(_visible(caller).where(SiteCommand.id == command_id, SiteCommand.site_id == site_id))
    if command is None:
        raise InputError("commands.unknown-id", command=command_id[:32])
    given_up = command.state == CommandState.EXPIRED.value and command.answered_at is None
    if command.state == CommandState.WAITING.value or given_up:
        command.state = state.value
        command.answered_at = now
        command.status = status
        command.output = output
        command.truncated = truncated
        command.began_at = began_at
        command.duration_ms = duration_ms
        command.problem = None if problem is None else dict(problem)
        session.flush()
    return command


def is_any_late(session: Session, caller: Caller, *, now: datetime) -> bool:
    """Whether there is one that no router began in time, as far as is known."""
    query = _visible(caller).where(SiteCommand.state == CommandState.WAITING.value, SiteCommand.expires_at <= now)
    return session.scalar(query.limit(1)) is not None


def expire(session: Session, caller: Caller, *, now: datetime) -> int:
    """Give up what no router began in time, as far as is known; how many."""
    query = _visible(caller).where(SiteCommand.state == CommandState.WAITING.value, SiteCommand.expires_at <= now)
    late = list(session.scalars(query))
    for command in late:
        command.state = CommandState.EXPIRED.value
    session.flush()
    return len(late)


def _visible(caller: Caller) -> Select[SiteCommand]:
    query = select(SiteCommand).join(Site, Site.id == SiteCommand.site_id).order_by(SiteCommand.requested_at.desc())
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)
