"""A pull of a router's log by range and unit: ask, wait for its pieces, read its text; or follow it as it comes.

The size and the pace on a mobile line go with the request, and the router keeps to them by the line that it has while
it sends: a request may outlive a line.
"""

import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from cloudside import messages
from cloudside.errors import InputError, KyotenError, UnavailableError
from cloudside.fleet import handover
from cloudside.fleet.protocol import LOG_PULLS
from cloudside.registry import log_pulls, reports
from cloudside.registry.callers import Caller
from cloudside.registry.database import Database
from cloudside.registry.log_pulls import PullState
from cloudside.registry.tables import LogPull, LogUpload

#: Bytes of gzip that a pull may bring; logs pack to a tenth.
MAX_BYTES = 16_000_000
#: On a mobile line: as much as half a minute's wait, at a pace that leaves room for the site's own traffic.
MOBILE_MAX_BYTES = 262_144
MOBILE_RATE_BYTES_S = 8_192
#: A followed log ends after this long; whoever looks on extends what is left of LEASE.
FOLLOW_FOR = timedelta(hours=1)
LEASE = timedelta(seconds=60)
#: What a router is asked for when nobody says which log, and how much of it.
UNITS = ("agent", "ike")
LINES = 500

_LOOK_S = 0.3
_RENEW_S = 15.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. ``anyway``: a mobile line sets no limit. ``days``: how long a router that is away may take."""

    units: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    lines: int
    follow: bool
    anyway: bool
    days: float = 7.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a pull is; ``waits``: what its router waits for, in words."""

    state: PullState
    received: int
    total: int
    waits: str | None


def can(session: Session, caller: Caller, site_id: str) -> bool | None:
    """Whether the site's agent knows ranges and units; None: it has never reported. Raises InputError: unknown site."""
    heartbeat = reports.heartbeat(session, caller, site_id)
    return None if heartbeat is None else LOG_PULLS in heartbeat.report.get("features", [])


def ask(session: Session, caller: Caller, site_id: str, wanted: Wanted, *, person: str, now: datetime) -> LogPull:
    """Leave the request for the router. Raises InputError."""
    pull = log_pulls.ask(
        session,
        caller,
        pull_id=secrets.token_hex(16),
        site_id=site_id,
        units=wanted.units,
        since=wanted.since,
        until=wanted.until,
        lines=wanted.lines,
        follow=wanted.follow,
        max_bytes=MAX_BYTES,
        mobile_max_bytes=MAX_BYTES if wanted.anyway else MOBILE_MAX_BYTES,
        mobile_rate_bytes_s=0 if wanted.anyway else MOBILE_RATE_BYTES_S,
        requested_by=person,
        expires_at=now + (FOLLOW_FOR if wanted.follow else timedelta(days=wanted.days)),
        now=now,
    )
    if wanted.follow:
        log_pulls.want(session, caller, pull_id=pull.id, until=now + LEASE)
    return pull


def wait(
    database: Database,
    caller: Caller,
    pull_id: str,
    *,
    timeout_s: float,
    progress: Callable[[Standing], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Until all of it is there.

    Raises UnavailableError: not within ``timeout_s`` (the request stays and goes on where it is), or its time is over.
    KyotenError: the router cannot hand it over. InputError: unknown.
    """
    ends = clock() + timeout_s
    while True:
        with database.read() as session:
            pull = log_pulls.get(session, caller, pull_id)
            upload = log_pulls.upload_of(session, caller, pull_id)
            standing = _standing(pull, upload)
            if standing.state is PullState.DONE:
                return
            late = clock() >= ends
            heartbeat = reports.heartbeat(session, caller, pull.site_id) if late else None
        if standing.state is not PullState.OPEN:
            raise _over(pull, standing)
        progress(standing)
        if late:
            params: dict[str, str | int] = {"site": pull.site_id, "request": pull_id, "seconds": round(timeout_s)}
            if standing.waits is not None:
                raise UnavailableError("logs.waits", waits=standing.waits, **params)
            if standing.received:
                raise UnavailableError("logs.not-whole", received=standing.received, total=standing.total, **params)
            reported = "-" if heartbeat is None else heartbeat.received_at.strftime("%Y-%m-%d %H:%M:%S UTC")
            raise UnavailableError("access.log-not-yet", reported=reported, **params)
        sleep(_LOOK_S)


def text(session: Session, caller: Caller, pull_id: str) -> Iterator[bytes]:
    """The text of a pull that is done, a bit at a time. Raises InputError: unknown, or its bytes were dropped since."""
    pull = log_pulls.get(session, caller, pull_id)
    if pull.follow:
        for piece in log_pulls.pieces(session, caller, pull_id):
            yield _of_piece(piece)
        return
    _require_bytes(session, caller, pull)
    yield from handover.unpacked(log_pulls.pieces(session, caller, pull_id))


def packed(session: Session, caller: Caller, pull_id: str) -> Iterator[bytes]:
    """The gzip itself. Raises as text does."""
    _require_bytes(session, caller, log_pulls.get(session, caller, pull_id))
    yield from log_pulls.pieces(session, caller, pull_id)


def follow(
    database: Database,
    caller: Caller,
    pull_id: str,
    *,
    now: Callable[[], datetime],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """New text as it comes, until the pull ends. Whoever stops reading calls `stop`. Raises as wait does."""
    at, renew_at = 0, clock() + _RENEW_S
    while True:
        with database.read() as session:
            pull = log_pulls.get(session, caller, pull_id)
            upload = log_pulls.upload_of(session, caller, pull_id)
            fresh = list(log_pulls.pieces(session, caller, pull_id, start=at))
            standing = _standing(pull, upload)
        for piece in fresh:
            at += len(piece)
            yield _of_piece(piece)
        if standing.state is PullState.DONE or (standing.state is PullState.EXPIRED and at):
            return
        if standing.state is not PullState.OPEN:
            raise _over(pull, standing)
        if clock() >= renew_at:
            renew_at = clock() + _RENEW_S
            with database.record() as session:
                log_pulls.want(session, caller, pull_id=pull_id, until=now() + LEASE)
        sleep(_LOOK_S)


def stop(database: Database, caller: Caller, pull_id: str, *, state: PullState, now: datetime) -> LogPull:
    """Nobody wants it any more. Raises InputError: unknown."""
    with database.write() as session:
        return log_pulls.end(session, caller, pull_id=pull_id, state=state, now=now)


def _standing(pull: LogPull, upload: LogUpload) -> Standing:
    waits = upload.waits
    words = None if waits is None else messages.text(waits["key"], waits["params"])
    return Standing(PullState(pull.state), upload.received_bytes, upload.total_bytes, words)


def _over(pull: LogPull, standing: Standing) -> KyotenError:
    if standing.state is PullState.FAILED and pull.problem is not None:
        problem = messages.text(pull.problem["key"], pull.problem["params"])
        return KyotenError("logs.failed", site=pull.site_id, problem=problem, problem_key=pull.problem["key"])
    if standing.state is PullState.CANCELLED:
        return InputError("logs.cancelled", site=pull.site_id, request=pull.id)
    return UnavailableError("logs.expired", site=pull.site_id, request=pull.id)


def _require_bytes(session: Session, caller: Caller, pull: LogPull) -> None:
    if log_pulls.upload_of(session, caller, pull.id).received_bytes == 0:
        raise InputError("registry.unknown-log-request", request=pull.id)


def _of_piece(piece: bytes) -> bytes:
    """A followed log's piece is a gzip by itself, and was checked when it came."""
    return zlib.decompress(piece, 16 + zlib.MAX_WBITS)


def chosen_units(given: Sequence[str]) -> tuple[str, ...]:
    """The units that a person named: ``all``, or names, also several in a word. Raises InputError: unknown."""
    names = [name.strip() for word in given for name in word.split(",") if name.strip()]
    if not names:
        return UNITS
    if "all" in names:
        return log_pulls.UNITS
    for name in names:
        if name not in log_pulls.UNITS:
            raise InputError("logs.unknown-unit", unit=name[:40], known=", ".join((*log_pulls.UNITS, "all")))
    return tuple(unit for unit in log_pulls.UNITS if unit in names)
