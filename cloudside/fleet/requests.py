"""What people ask of a site's router, as the router hears it, and what it hands over: logs, commands, crash reports.

An older agent is asked only for what it says it can do. While somebody looks on, heartbeats come often, so that what
is asked next is heard soon.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.fleet import handover
from cloudside.fleet.protocol import (
    COMMANDS,
    LOG_PULLS,
    Command,
    CommandResult,
    CrashReport,
    Heartbeat,
    LogPull,
    LogPullState,
    PieceAnswer,
)
from cloudside.registry import crash_reports, log_pulls, site_commands
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.log_pulls import PullState
from cloudside.registry.site_commands import CommandState
from cloudside.registry.tables import LogPull as LogPullRow

#: Most of each that one answer holds; the rest waits for the next.
AT_ONCE = 4
#: Seconds between heartbeats while somebody looks on: at most so many on a wired and on a mobile line.
ATTENDED_WIRED_S = 5.0
ATTENDED_MOBILE_S = 30.0
#: How long after a request somebody is taken to look on.
ATTENTION = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Asked:
    """What goes into an answer. ``attended``: somebody looks on."""

    log_pulls: list[LogPull]
    commands: list[Command]
    attended: bool


def of_site(session: Session, heartbeat: Heartbeat, *, site_id: str, now: datetime) -> Asked:
    """What the router of this heartbeat is asked for."""
    pulls, commands = [], []
    if LOG_PULLS in heartbeat.features:
        pulls = [row for row in log_pulls.waiting(session, OPERATOR, site_id, now=now) if is_wanted(session, row, now)]
    if COMMANDS in heartbeat.features:
        commands = site_commands.waiting(session, OPERATOR, site_id, now=now)
    newest = [row.requested_at for row in pulls]
    newest += [row.requested_at for row in site_commands.of_site(session, OPERATOR, site_id, most=1)]
    followed = any(row.follow for row in pulls)
    return Asked(
        log_pulls=[_pull(session, row) for row in pulls[:AT_ONCE]],
        commands=[
            Command(
                id=row.id,
                name=row.name,
                arguments=row.arguments,
                timeout_s=row.timeout_s,
                expires_s=(row.expires_at - now).total_seconds(),
            )
            for row in commands[:AT_ONCE]
        ],
        attended=followed or bool(commands) or any(at > now - ATTENTION for at in newest),
    )


def interval_s(regular_s: float, *, mobile: bool, attended: bool) -> float:
    """Seconds until the next heartbeat."""
    return min(regular_s, ATTENDED_MOBILE_S if mobile else ATTENDED_WIRED_S) if attended else regular_s


def is_wanted(session: Session, row: LogPullRow, now: datetime) -> bool:
    """Whether a pull is still to be handed over; a followed one only while somebody looks on."""
    if row.state != PullState.OPEN.value or row.expires_at <= now:
        return False
    if not row.follow:
        return True
    until = log_pulls.upload_of(session, OPERATOR, row.id).wanted_until
    return until is not None and until > now


def take_piece(
    session: Session,
    *,
    pull_id: str,
    site_id: str,
    offset: int,
    total: int,
    sha256: str,
    content: bytes,
    now: datetime,
) -> PieceAnswer:
    """Keep a piece. What has become whole is checked; if it is not what was announced, all of it is asked for again."""
    row = log_pulls.find(session, OPERATOR, pull_id)
    if row is not None and row.follow:
        handover.check_log(content, unpacked_max_bytes=handover.PIECE_UNPACKED_MAX_BYTES)
    received, whole = log_pulls.take_piece(
        session,
        OPERATOR,
        pull_id=pull_id,
        site_id=site_id,
        offset=offset,
        total=total,
        sha256=sha256,
        content=content,
        now=now,
    )
    if whole:
        if not _is_good(session, pull_id):
            log_pulls.start_over(session, OPERATOR, pull_id=pull_id, site_id=site_id)
            return PieceAnswer(received=0, wanted=True)
        log_pulls.end(session, OPERATOR, pull_id=pull_id, state=PullState.DONE, now=now)
        return PieceAnswer(received=received, wanted=False)
    return PieceAnswer(received=received, wanted=is_wanted(session, log_pulls.get(session, OPERATOR, pull_id), now))


def take_pull_state(session: Session, state: LogPullState, *, pull_id: str, site_id: str, now: datetime) -> None:
    """The router says that a pull waits, or cannot be had."""
    problem = state.problem.model_dump(mode="json")
    log_pulls.note(session, OPERATOR, pull_id=pull_id, site_id=site_id, waits=problem)
    if state.state == "failed":
        log_pulls.end(session, OPERATOR, pull_id=pull_id, state=PullState.FAILED, now=now, problem=problem)


def take_result(session: Session, result: CommandResult, *, command_id: str, site_id: str, now: datetime) -> None:
    """Keep what became of a command. Raises InputError: unknown, another site's, or with a time that is none."""
    site_commands.answer(
        session,
        OPERATOR,
        command_id=command_id,
        site_id=site_id,
        state=CommandState(result.state),
        status=result.status,
        output=_storable(result.output),
        truncated=result.truncated,
        began_at=_moment(result.began_at) if result.began_at else None,
        duration_ms=round(min(max(result.duration_s, 0), 86_400) * 1000),
        problem=None if result.problem is None else result.problem.model_dump(mode="json"),
        now=now,
    )


def take_crash(session: Session, report: CrashReport, *, site_id: str, now: datetime) -> None:
    """Keep a crash report. Raises InputError: a time that is none."""
    crash_reports.record(
        session,
        OPERATOR,
        site_id=site_id,
        report_id=report.id,
        kind=report.kind,
        process=_storable(report.process),
        summary=_storable(report.summary),
        first_at=_moment(report.first_at),
        last_at=_moment(report.last_at),
        count=min(max(report.count, 1), 1_000_000_000),
        versions=report.versions,
        text=_storable(report.text),
        now=now,
    )


def end_overdue(database: Database, *, keep_days: float, now: datetime) -> None:
    """Give up commands and log pulls whose time is over, end followed logs that nobody looks at any more, and drop the
    bytes of old ones. Raises UnavailableError."""
    with database.read() as session:
        overdue = [row.id for row in log_pulls.overdue(session, OPERATOR, now=now)]
        unwatched = [row.id for row in log_pulls.unwatched(session, OPERATOR, now=now)]
        late = site_commands.is_any_late(session, OPERATOR, now=now)
    if overdue or unwatched or late:
        with database.write() as session:
            site_commands.expire(session, OPERATOR, now=now)
            for pull_id in overdue:
                log_pulls.end(session, OPERATOR, pull_id=pull_id, state=PullState.EXPIRED, now=now)
            for pull_id in unwatched:
                log_pulls.end(session, OPERATOR, pull_id=pull_id, state=PullState.DONE, now=now)
    before = now - timedelta(days=keep_days)
    with database.read() as session:
        old = log_pulls.prunable(session, OPERATOR, before=before)
    if old:
        with database.record() as session:
            log_pulls.prune(session, OPERATOR, before=before)


def _is_good(session: Session, pull_id: str) -> bool:
    if not log_pulls.is_as_announced(session, OPERATOR, pull_id):
        return False
    try:
        for _ in handover.unpacked(log_pulls.pieces(session, OPERATOR, pull_id)):
            pass
    except InputError:
        return False
    return True


def _pull(session: Session, row: LogPullRow) -> LogPull:
    return LogPull(
        id=row.id,
        units=row.units,
        since=_written(row.since_at),
        until=_written(row.until_at),
        lines=row.lines,
        follow=row.follow,
        received=log_pulls.upload_of(session, OPERATOR, row.id).received_bytes,
        max_bytes=row.max_bytes,
        mobile_max_bytes=row.mobile_max_bytes,
        mobile_rate_bytes_s=row.mobile_rate_bytes_s,
    )


def _written(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError("fleet.bad-document", problems=f"{text[:40]}: not a time") from None


def _storable(text: str) -> str:
    # PostgreSQL keeps no NUL in a text.
    return text.replace("\0", "\ufffd")
