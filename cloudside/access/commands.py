"""A diagnostic command for a site's router: leave it, wait for what comes of it."""

import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from cloudside.errors import InputError, UnavailableError
from cloudside.fleet import diagnostics
from cloudside.fleet.protocol import COMMANDS
from cloudside.registry import devices, reports, site_commands
from cloudside.registry.callers import Caller
from cloudside.registry.database import Database
from cloudside.registry.site_commands import CommandState
from cloudside.registry.tables import SiteCommand

#: How long a router that is away may take until it begins, by default and at most.
EXPIRES = timedelta(minutes=10)
EXPIRES_MOST = timedelta(days=7)

_LOOK_S = 0.3


def ask(
    session: Session,
    caller: Caller,
    site_id: str,
    name: str,
    words: Sequence[str],
    *,
    reason: str,
    timeout_s: int,
    expires: timedelta,
    person: str,
    tenants_may: frozenset[str],
    now: datetime,
) -> SiteCommand:
    """Leave a command for the router. ``words``: its arguments as typed.

    Raises InputError (or InputErrors): unknown site, command or argument; an agent that is too old; a time that is too
    long. RefusedError: the caller is not an operator.
    """
    known = {device.name: str(device.lan_address) for device in devices.every(session, caller, site_id=site_id)}
    heartbeat = reports.heartbeat(session, caller, site_id)
    arguments = diagnostics.parse(name, words, devices=known)
    if heartbeat is not None and COMMANDS not in heartbeat.report.get("features", []):
        raise InputError("commands.agent-too-old", site=site_id)
    if not 1 <= timeout_s <= diagnostics.TIMEOUT_MAX_S:
        raise InputError("commands.bad-timeout", seconds=timeout_s, most=diagnostics.TIMEOUT_MAX_S)
    if expires > EXPIRES_MOST:
        raise InputError("commands.expires-late", days=EXPIRES_MOST.days)
    return site_commands.ask(
        session,
        caller,
        command_id=secrets.token_hex(16),
        site_id=site_id,
        name=name,
        arguments=arguments,
        reason=reason,
        timeout_s=timeout_s,
        requested_by=person,
        expires_at=now + expires,
        now=now,
        tenants_may=tenants_may,
    )


def wait(
    database: Database,
    caller: Caller,
    command_id: str,
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> SiteCommand:
    """The command with what came of it. Raises UnavailableError: nothing within ``timeout_s``; it stays asked for."""
    ends = clock() + timeout_s
    while True:
        with database.read() as session:
            command = site_commands.get(session, caller, command_id)
            late = clock() >= ends
            heartbeat = reports.heartbeat(session, caller, command.site_id) if late else None
        if command.state != CommandState.WAITING.value:
            return command
        if late:
            reported = "-" if heartbeat is None else heartbeat.received_at.strftime("%Y-%m-%d %H:%M:%S UTC")
            raise UnavailableError(
                "commands.not-yet",
                site=command.site_id,
                command=command_id,
                seconds=round(timeout_s),
                until=command.expires_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
                reported=reported,
            )
        sleep(_LOOK_S)
