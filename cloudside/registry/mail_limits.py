"""How many recipients a tenant, site or device may send to in an hour and a day, and what happens beyond.

A tenant's own limit is the operators' to state; its administrator states those of its sites and devices. A site
without a limit of its own has the one of the relay's configuration, which is no row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, RefusedError, combined
from cloudside.mail.model import Action, Scope
from cloudside.registry import mail_scopes, sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import MailLimit

#: No mail system of a building sends more; also what the column holds.
COUNT_MAX = 100_000_000
#: How many times as high, and for how long, a limit can be raised. What is to last is stated as a limit.
TIMES_MAX = 100
LONGEST_RAISE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Defaults:
    """The relay's limits for a site without its own, in recipients."""

    hourly: int
    daily: int


def visible(caller: Caller) -> Select[MailLimit]:
    """All limits that exist for the caller, by scope and name."""
    query = select(MailLimit).order_by(MailLimit.scope, MailLimit.name)
    return query if caller.tenant is None else query.where(MailLimit.tenant_id == caller.tenant)


def every(session: Session, caller: Caller) -> list[MailLimit]:
    """All limits that exist for the caller, by scope and name."""
    return list(session.scalars(visible(caller)))


def find(session: Session, caller: Caller, *, scope: str, name: str) -> MailLimit | None:
    """The limit that was stated for somebody; None: none. Raises InputError: no such scope."""
    known, name = mail_scopes.read(scope, name)
    return session.scalar(visible(caller).where(MailLimit.scope == known.value, MailLimit.name == name))


def set_limit(
    session: Session,
    caller: Caller,
    *,
    scope: str,
    name: str,
    hourly: int | None,
    daily: int | None,
    action: str = Action.NOTIFY,
) -> MailLimit:
    """State a limit as a whole; None: no limit. It holds at once: a raise of the one before ends.

    Raises InputError (or InputErrors): unknown name, count or action. RefusedError: a tenant's own limit, or a cloud
    server's, and the caller is no operator.
    """
    subject = mail_scopes.subject(session, caller, scope, name)
    _require_right(caller, subject.scope)
    problems = _count_problems(hourly, daily)
    if action not in set(Action):
        problems.append(InputError("registry.bad-mail-action", action=action[:40], known=", ".join(Action)))
    if problems:
        raise combined(problems)
    row = find(session, caller, scope=subject.scope, name=subject.name)
    if row is None:
        row = MailLimit(scope=subject.scope.value, name=subject.name, tenant_id=subject.tenant)
        session.add(row)
    row.hourly, row.daily, row.action = hourly, daily, str(action)
    row.raised, row.raised_until = 1, None
    session.flush()
    return row


def raise_limit(
    session: Session,
    caller: Caller,
    *,
    scope: str,
    name: str,
    times: int,
    until: datetime,
    now: datetime,
    defaults: Defaults,
) -> MailLimit:
    """Make a limit ``times`` as high until a moment. A site without its own gets the one it has by default as its own.

    Raises InputError (or InputErrors): unknown name; nothing to raise; ``times`` or ``until`` out of bounds.
    RefusedError as set_limit.
    """
    subject = mail_scopes.subject(session, caller, scope, name)
    _require_right(caller, subject.scope)
    problems: list[InputError] = []
    if not 2 <= times <= TIMES_MAX:
        problems.append(InputError("registry.bad-mail-raise", times=times, most=TIMES_MAX))
    if not now < until <= now + LONGEST_RAISE:
        shown = until.isoformat(timespec="minutes")
        problems.append(InputError("registry.bad-mail-raise-end", until=shown, days=LONGEST_RAISE.days))
    row = find(session, caller, scope=subject.scope, name=subject.name)
    if row is None and subject.scope is not Scope.SITE:
        problems.append(InputError("registry.no-mail-limit", scope=subject.scope.value, name=subject.name))
    elif row is not None and row.hourly is None and row.daily is None:
        problems.append(InputError("registry.no-mail-limit-to-raise", scope=subject.scope.value, name=subject.name))
    if problems:
        raise combined(problems)
    if row is None:
        hourly = default_hourly(session, caller, subject.name, defaults)
        daily = max(hourly, defaults.daily)
        row = set_limit(session, caller, scope=subject.scope, name=subject.name, hourly=hourly, daily=daily)
    row.raised, row.raised_until = times, until
    session.flush()
    return row


def default_hourly(session: Session, caller: Caller, name: str, defaults: Defaults) -> int:
    """What a site without a limit here may send in an hour: what its own row says, else the relay's default.

    Raises InputError: unknown site.
    """
    if name.startswith(mail_scopes.SERVER):
        return defaults.hourly
    return sites.get(session, caller, name).mail_hourly_limit or defaults.hourly


def remove(session: Session, caller: Caller, *, scope: str, name: str) -> MailLimit:
    """Take a limit away. Raises InputError: there is none. RefusedError as set_limit."""
    row = find(session, caller, scope=scope, name=name)
    if row is None:
        raise InputError("registry.no-mail-limit", scope=scope[:40], name=name[:110])
    _require_right(caller, Scope(row.scope))
    session.delete(row)
    session.flush()
    return row


def in_force(row: MailLimit, now: datetime) -> Mapping[str, int | None]:
    """A limit's counts by window at ``now``, raised if it is raised; None: no limit."""
    times = row.raised if row.raised_until is not None and now < row.raised_until else 1
    counts = {"hourly": row.hourly, "daily": row.daily}
    return MappingProxyType({window: None if count is None else count * times for window, count in counts.items()})


def _require_right(caller: Caller, scope: Scope) -> None:
    if scope is Scope.TENANT and caller.tenant is not None:
        raise RefusedError("registry.mail-limit-operators", tenant=caller.tenant)


def _count_problems(hourly: int | None, daily: int | None) -> list[InputError]:
    problems = [
        InputError("registry.bad-mail-count", count=count, most=COUNT_MAX)
        for count in (hourly, daily)
        if count is not None and not 1 <= count <= COUNT_MAX
    ]
    if not problems and hourly is not None and daily is not None and daily < hourly:
        problems.append(InputError("registry.mail-limit-order", hourly=hourly, daily=daily))
    return problems
