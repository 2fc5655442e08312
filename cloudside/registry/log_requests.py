"""Log pulls: asked for by a person, answered by the router's agent, kept as the agent sent them."""

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import LogRequest, Site

#: Most lines one pull may ask for: about 10 MB of text, a minute on a slow mobile line when compressed.
MAX_LINES = 100_000


def ask(
    session: Session, caller: Caller, *, request_id: str, site_id: str, lines: int, requested_by: str, now: datetime
) -> LogRequest:
    """Ask a site for its last ``lines`` log lines. ``request_id`` is 32 hexadecimal digits, random.

    Raises InputError: unknown site, or too few or many lines.
    """
    site = sites.get(session, caller, site_id)
    if not 1 <= lines <= MAX_LINES:
        raise InputError("registry.bad-log-lines", lines=lines, most=MAX_LINES)
    request = LogRequest(
        id=request_id,
        site_id=site.id,
        lines=lines,
        requested_by=requested_by[:100],
        requested_at=now,
        answered_at=None,
        content=None,
    )
    session.add(request)
    session.flush()
    return request


def get(session: Session, caller: Caller, request_id: str) -> LogRequest:
    """One request. Raises InputError: unknown, or another tenant's."""
    request = session.scalar(_visible(caller).where(LogRequest.id == request_id))
    if request is None:
        raise InputError("registry.unknown-log-request", request=request_id[:32])
    return request


def waiting(session: Session, caller: Caller, site_id: str) -> list[LogRequest]:
    """A site's requests without an answer, oldest first. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    query = _visible(caller).where(LogRequest.site_id == site.id, LogRequest.answered_at.is_(None))
    return list(session.scalars(query))


def answer(
    session: Session, caller: Caller, *, request_id: str, site_id: str, content: bytes, now: datetime
) -> LogRequest:
    """Keep the log that ``site_id`` handed over (gzip). The first answer stays: a repeated one changes nothing.

    Raises InputError: unknown request, or not this site's.
    """
    request = session.scalar(_visible(caller).where(LogRequest.id == request_id, LogRequest.site_id == site_id))
    if request is None:
        raise InputError("registry.unknown-log-request", request=request_id[:32])
    if request.answered_at is None:
        request.answered_at = now
        request.content = content
        session.flush()
    return request


def _visible(caller: Caller) -> Select[LogRequest]:
    query = select(LogRequest).join(Site, Site.id == LogRequest.site_id).order_by(LogRequest.requested_at)
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)
