"""Log pulls: a range of a router's logs, asked for by a person, handed over in pieces that may come days apart.

The pieces are the router's gzip as it is. A pull is done when as many bytes are there as the router announced and their
SHA-256 is the announced one. A followed log has no end: each of its pieces is a gzip by itself.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import LogPiece, LogPull, LogUpload, Site

#: The logs that a router knows.
UNITS = ("agent", "ike", "kernel", "modem", "update")
#: Most lines that one pull may ask for by number.
MAX_LINES = 1_000_000


class PullState(StrEnum):
    """Where a pull stands."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


def ask(
    session: Session,
    caller: Caller,
    *,
    pull_id: str,
    site_id: str,
    units: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    lines: int,
    follow: bool,
    max_bytes: int,
    mobile_max_bytes: int,
    mobile_rate_bytes_s: int,
    requested_by: str,
    expires_at: datetime,
    now: datetime,
) -> LogPull:
    """Ask a site for a range of its logs. ``pull_id``: 32 hexadecimal digits, random. ``lines`` 0: all of the range.

    Raises InputError: unknown site or unit, a range that ends before it begins, too many lines.
    """
    site = sites.get(session, caller, site_id)
    for unit in units:
        if unit not in UNITS:
            raise InputError("logs.unknown-unit", unit=unit[:40], known=", ".join(UNITS))
    if since is not None and until is not None and until <= since:
        raise InputError("logs.empty-range", since=f"{since:%Y-%m-%d %H:%M:%S}", until=f"{until:%Y-%m-%d %H:%M:%S}")
    if not 0 <= lines <= MAX_LINES:
        raise InputError("logs.bad-lines", lines=lines, most=MAX_LINES)
    pull = LogPull(
        id=pull_id,
        site_id=site.id,
        units=list(units),
        since_at=since,
        until_at=until,
        lines=lines,
        follow=follow,
        max_bytes=max_bytes,
        mobile_max_bytes=mobile_max_bytes,
        mobile_rate_bytes_s=mobile_rate_bytes_s,
        requested_by=requested_by[:100],
        requested_at=now,
        expires_at=expires_at,
        state=PullState.OPEN.value,
        ended_at=None,
        problem=None,
    )
    session.add(pull)
    session.flush()
    session.add(LogUpload(
        pull_id=pull.id, sha256="", total_bytes=0, received_bytes=0, updated_at=now, waits=None, wanted_until=None
    ))  # fmt: skip
    session.flush()
    return pull


def get(session: Session, caller: Caller, pull_id: str) -> LogPull:
    """One pull. Raises InputError: unknown, or another tenant's."""
    pull = session.scalar(_visible(caller).where(LogPull.id == pull_id))
    if pull is None:
        raise InputError("registry.unknown-log-request", request=pull_id[:32])
    return pull


def find(session: Session, caller: Caller, pull_id: str) -> LogPull | None:
    """One pull; None: unknown, or another tenant's."""
    return session.scalar(_visible(caller).where(LogPull.id == pull_id))


def upload_of(session: Session, caller: Caller, pull_id: str) -> LogUpload:
    """How much of a pull has come. Raises InputError: unknown."""
    pull = get(session, caller, pull_id)
    found = session.get(LogUpload, pull.id)
    if found is None:
        raise InputError("registry.unknown-log-request", request=pull_id[:32])
    return found


def received(session: Session, caller: Caller, pull_id: str) -> int | None:
    """Bytes of a pull that are there; None: they were dropped since. Raises InputError: unknown."""
    upload = session.get(LogUpload, get(session, caller, pull_id).id)
    return None if upload is None else upload.received_bytes


def of_site(session: Session, caller: Caller, site_id: str, *, most: int) -> list[LogPull]:
    """A site's pulls, newest first. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    return list(session.scalars(_visible(caller).where(LogPull.site_id == site.id).limit(most)))


def waiting(session: Session, caller: Caller, site_id: str, *, now: datetime) -> list[LogPull]:
    """What the router is still to hand over, oldest first. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    query = _visible(caller).where(
        LogPull.site_id == site.id, LogPull.state == PullState.OPEN.value, LogPull.expires_at > now
    )
    return list(session.scalars(query.order_by(None).order_by(LogPull.requested_at)))


def take_piece(
    session: Session,
    caller: Caller,
    *,
    pull_id: str,
    site_id: str,
    offset: int,
    total: int,
    sha256: str,
    content: bytes,
    now: datetime,
) -> tuple[int, bool]:
    """Keep a piece that ``site_id`` hands over: (bytes there now, whether the pull has just become whole).

    A piece that does not begin where the last one ended changes nothing: the answer says where to go on. Another hash
    than before means that the router has packed the log anew: what was there is dropped.
    Raises InputError: unknown pull or not this site's, or more bytes than were announced or asked for.
    """
    pull = _of_site(session, caller, pull_id, site_id)
    upload = session.get(LogUpload, pull.id)
    if upload is None or pull.state != PullState.OPEN.value:
        return (0 if upload is None else upload.received_bytes, False)
    limit = max(pull.max_bytes, pull.mobile_max_bytes)
    end = offset + len(content)
    if (total if not pull.follow else end) > limit or (not pull.follow and end > total) or not content:
        raise InputError("logs.too-much", request=pull.id, most=limit)
    if not pull.follow and (upload.sha256, upload.total_bytes) != (sha256, total):
        _drop(session, upload)
        upload.sha256, upload.total_bytes = sha256, total
    if offset == upload.received_bytes:
        session.add(LogPiece(pull_id=pull.id, start=offset, content=content))
        upload.received_bytes = end
    upload.updated_at = now
    upload.waits = None
    session.flush()
    return upload.received_bytes, not pull.follow and upload.received_bytes == total


def is_as_announced(session: Session, caller: Caller, pull_id: str) -> bool:
    """Whether all bytes are there and are those that were announced. Raises InputError: unknown."""
    upload = upload_of(session, caller, pull_id)
    digest = hashlib.sha256()
    for piece in pieces(session, caller, pull_id):
        digest.update(piece)
    return upload.received_bytes == upload.total_bytes and digest.hexdigest() == upload.sha256


def pieces(session: Session, caller: Caller, pull_id: str, *, start: int = 0) -> Iterator[bytes]:
    """What is there, from the piece that begins at ``start`` on. Raises InputError: unknown."""
    pull = get(session, caller, pull_id)
    query = select(LogPiece).where(LogPiece.pull_id == pull.id, LogPiece.start >= start).order_by(LogPiece.start)
    for piece in session.scalars(query).yield_per(16):
        yield piece.content


def start_over(session: Session, caller: Caller, *, pull_id: str, site_id: str) -> None:
    """Drop what came: it is not what was announced. Raises InputError: unknown, or not this site's."""
    upload = session.get(LogUpload, _of_site(session, caller, pull_id, site_id).id)
    if upload is not None:
        _drop(session, upload)
        session.flush()


def note(session: Session, caller: Caller, *, pull_id: str, site_id: str, waits: Mapping[str, Any] | None) -> None:
    """What the router waits for. Raises InputError: unknown, or not this site's."""
    upload = session.get(LogUpload, _of_site(session, caller, pull_id, site_id).id)
    if upload is not None:
        upload.waits = None if waits is None else dict(waits)
        session.flush()


def want(session: Session, caller: Caller, *, pull_id: str, until: datetime) -> None:
    """Somebody looks on: the followed log is wanted until then. Raises InputError: unknown."""
    upload_of(session, caller, pull_id).wanted_until = until
    session.flush()


def end(
    session: Session,
    caller: Caller,
    *,
    pull_id: str,
    state: PullState,
    now: datetime,
    problem: Mapping[str, Any] | None = None,
) -> LogPull:
    """The pull is over; one that is over stays as it is. Raises InputError: unknown."""
    pull = get(session, caller, pull_id)
    if pull.state == PullState.OPEN.value:
        pull.state = state.value
        pull.ended_at = now
        pull.problem = None if problem is None else dict(problem)
        session.flush()
    return pull


def overdue(session: Session, caller: Caller, *, now: datetime) -> list[LogPull]:
    """Open ones whose time is over."""
    return list(
        session.scalars(_visible(caller).where(LogPull.state == PullState.OPEN.value, LogPull.expires_at <= now))
    )


def unwatched(session: Session, caller: Caller, *, now: datetime) -> list[LogPull]:
    """Followed ones that nobody has looked at for longer than they are wanted."""
    query = _visible(caller).join(LogUpload, LogUpload.pull_id == LogPull.id)
    return list(
        session.scalars(
            query.where(LogPull.state == PullState.OPEN.value, LogPull.follow, LogUpload.wanted_until <= now)
        )
    )


def prunable(session: Session, caller: Caller, *, before: datetime) -> list[str]:
    """Pulls that ended before and still have bytes, or could have."""
    query = _visible(caller).join(LogUpload, LogUpload.pull_id == LogPull.id).where(LogPull.ended_at < before)
    return [pull.id for pull in session.scalars(query)]


def prune(session: Session, caller: Caller, *, before: datetime) -> int:
    """Drop the bytes of pulls that ended before; how many pulls. That they were asked for stays."""
    old = prunable(session, caller, before=before)
    for pull_id in old:
        upload = session.get(LogUpload, pull_id)
        if upload is not None:
            _drop(session, upload)
            session.delete(upload)
    session.flush()
    return len(old)


def _drop(session: Session, upload: LogUpload) -> None:
    session.execute(delete(LogPiece).where(LogPiece.pull_id == upload.pull_id))
    upload.received_bytes = 0


def _of_site(session: Session, caller: Caller, pull_id: str, site_id: str) -> LogPull:
    pull = session.scalar(_visible(caller).where(LogPull.id == pull_id, LogPull.site_id == site_id))
    if pull is None:
        raise InputError("registry.unknown-log-request", request=pull_id[:32])
    return pull


def _visible(caller: Caller) -> Select[LogPull]:
    query = select(LogPull).join(Site, Site.id == LogPull.site_id).order_by(LogPull.requested_at.desc())
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)
