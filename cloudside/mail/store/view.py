"""A look at the queue for `kyoten mail`: read-only, beside a running relay or without one."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloudside.errors import InputError, UnavailableError
from cloudside.mail.model import shown_id
from cloudside.mail.store.queue import FILE_NAME


@dataclass(frozen=True, slots=True)
class Entry:
    """One recipient of one message. ``next_attempt`` only while it waits."""

    message: str
    kind: str
    origin: str
    sender: str
    recipient: str
    subject: str
    size: int
    accepted_at: datetime
    state: str
    attempts: int
    next_attempt: datetime | None
    reply: str


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to one recipient."""

    at: datetime
    recipient: str
    event: str
    detail: str


@dataclass(frozen=True, slots=True)
class Story:
    """A message's life."""

    entries: tuple[Entry, ...]
    happenings: tuple[Happening, ...]


_ENTRY = (
    "SELECT m.id, m.kind, m.origin, m.sender, r.address, m.subject, m.size, m.accepted_at, r.state, r.attempts,"
    " r.next_attempt, r.reply FROM recipients r JOIN messages m ON m.id = r.message "
)


def waiting(directory: Path, *, limit: int = 1000) -> list[Entry]:
    """What is not finished, oldest first. Raises UnavailableError: no queue there, or unreadable."""
    with _opened(directory) as connection:
        rows = connection.execute(
            _ENTRY + "WHERE r.state IN ('queued', 'sending') ORDER BY m.accepted_at LIMIT ?", (limit,)
        ).fetchall()
    return [_entry(row) for row in rows]


def counts(directory: Path) -> dict[str, int]:
    """Recipients by state, of all messages within the retention. Raises UnavailableError."""
    with _opened(directory) as connection:
        return dict(connection.execute("SELECT state, count(*) FROM recipients GROUP BY 1").fetchall())


def trace(directory: Path, what: str, *, limit: int = 20) -> list[Story]:
    """Messages by id (16 hex digits), or by sender, recipient or site, newest first.

    Raises InputError when nothing matches, UnavailableError.
    """
    with _opened(directory) as connection:
        ids = [row[0] for row in connection.execute(_MATCH, (_number(what), what, what, what, limit)).fetchall()]
        stories = [_story(connection, message_id) for message_id in ids]
    if not stories:
        raise InputError("mail.nothing-found", what=what)
    return stories


_MATCH = (
    "SELECT DISTINCT m.id FROM messages m JOIN recipients r ON r.message = m.id"
    " WHERE m.id = ? OR m.sender = ? OR r.address = ? OR m.origin = ? ORDER BY m.accepted_at DESC LIMIT ?"
)


def _number(what: str) -> int:
    try:
        return int(what, 16) if len(what) == 16 else -1
    except ValueError:
        return -1


def _story(connection: sqlite3.Connection, message_id: int) -> Story:
    entries = connection.execute(_ENTRY + "WHERE m.id = ? ORDER BY r.position", (message_id,)).fetchall()
    events = connection.execute(
        "SELECT e.at, r.address, e.event, e.detail FROM events e JOIN recipients r ON r.message = e.message"
        " AND r.position = e.position WHERE e.message = ? ORDER BY e.at, e.rowid",
        (message_id,),
    ).fetchall()
    return Story(tuple(_entry(row) for row in entries), tuple(Happening(_time(at), *rest) for at, *rest in events))


def _entry(row: tuple[int, str, str, str, str, str, int, float, str, int, float, str]) -> Entry:
    state = row[8]
    return Entry(
        message=shown_id(row[0]),
        kind=row[1],
        origin=row[2],
        sender=row[3],
        recipient=row[4],
        subject=row[5],
        size=row[6],
        accepted_at=_time(row[7]),
        state=state,
        attempts=row[9],
        next_attempt=_time(row[10]) if state == "queued" else None,
        reply=row[11],
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@contextmanager
def _opened(directory: Path) -> Iterator[sqlite3.Connection]:
    path = directory / FILE_NAME
    if not path.exists():
        raise UnavailableError("mail.no-queue", path=str(path))
    try:
        # mode=ro: this connection must never checkpoint (see storage.py).
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise UnavailableError("mail.queue-failed", path=str(path), reason=str(error)) from error
