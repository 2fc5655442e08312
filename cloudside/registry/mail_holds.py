"""Whose mail is taken and waits. A hold is about mail to come; what waits already is moved in the queue, not here.

What an operator holds, a tenant's administrator sees and cannot release.
"""

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, RefusedError
from cloudside.mail.model import Scope
from cloudside.registry import mail_scopes
from cloudside.registry.callers import Caller
from cloudside.registry.tables import MailHold

#: Column width, in characters.
REASON_MAX_CHARS = 500


def visible(caller: Caller) -> Select[MailHold]:
    """All holds that exist for the caller, by scope and name."""
    query = select(MailHold).order_by(MailHold.scope, MailHold.name)
    return query if caller.tenant is None else query.where(MailHold.tenant_id == caller.tenant)


def every(session: Session, caller: Caller) -> list[MailHold]:
    """All holds that exist for the caller, by scope and name."""
    return list(session.scalars(visible(caller)))


def find(session: Session, caller: Caller, *, scope: str, name: str) -> MailHold | None:
    """The hold on somebody; None: none. Raises InputError: no such scope."""
    known, name = mail_scopes.read(scope, name)
    return session.scalar(visible(caller).where(MailHold.scope == known.value, MailHold.name == name))


def put(
    session: Session, caller: Caller, *, scope: str, name: str, reason: str, author: str, now: datetime
) -> MailHold:
    """Let mail wait from now on. One that is held already keeps its beginning and gets the new reason.

    Raises InputError (or InputErrors): unknown name, no reason. RefusedError: held by an operator, or a cloud server's,
    and the caller is none.
    """
    subject = mail_scopes.subject(session, caller, scope, name)
    require_reason(reason)
    row = find(session, caller, scope=subject.scope, name=subject.name)
    if row is None:
        row = MailHold(scope=subject.scope.value, name=subject.name, tenant_id=subject.tenant, since=now)
        session.add(row)
    else:
        _require_right(caller, row)
    row.reason, row.author, row.imposed = reason.strip(), author[:100], caller.tenant is None
    session.flush()
    return row


def take_away(session: Session, caller: Caller, *, scope: str, name: str) -> MailHold:
    """Let mail pass again. Raises InputError: nothing is held. RefusedError: by an operator, and the caller is none."""
    row = find(session, caller, scope=scope, name=name)
    if row is None:
        raise InputError("registry.no-mail-hold", scope=scope[:40], name=name[:110])
    _require_right(caller, row)
    session.delete(row)
    session.flush()
    return row


def require_release(session: Session, caller: Caller, *, origins: tuple[str, ...] | None, device: str) -> None:
    """Raise RefusedError if the caller is a tenant and an operator holds mail that is meant.

    Meant is that of ``origins`` (None: of all its sites), with ``device`` that device's only.
    """
    if caller.tenant is None:
        return
    if device and (home := _home(session, caller, device)) is not None:
        origins = (home,)
    for row in session.scalars(visible(caller).where(MailHold.imposed)):
        if row.scope == Scope.DEVICE:
            home = _home(session, caller, row.name)
            concerned = device in ("", row.name) and (None in (origins, home) or home in (origins or ()))
        else:
            concerned = row.scope == Scope.TENANT or origins is None or row.name in origins
        if concerned:
            _require_right(caller, row)


def require_reason(reason: str) -> None:
    """Raise InputError unless somebody can learn from it why mail waits."""
    if not reason.strip() or len(reason) > REASON_MAX_CHARS:
        raise InputError("registry.mail-hold-reason", longest=REASON_MAX_CHARS)


def _home(session: Session, caller: Caller, device: str) -> str | None:
    """The site that a device is at; None: nobody knows any more."""
    try:
        return mail_scopes.subject(session, caller, Scope.DEVICE, device).origin
    except InputError:
        return None


def _require_right(caller: Caller, row: MailHold) -> None:
    if row.imposed and caller.tenant is not None:
        raise RefusedError("registry.mail-hold-imposed", scope=row.scope, name=row.name, reason=row.reason)
