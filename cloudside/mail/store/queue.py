"""Everything that is done to the durable queue, each operation one transaction.

A recipient is in exactly one state. A failure and the report about it are written together, so a crash can neither
lose a report nor send it twice. Message bodies leave the file when their last recipient is finished; headers stay for
late bounces until the retention ends.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from cloudside.mail.message import split
from cloudside.mail.model import PREDECESSORS, Attempt, Kind, NewMessage, Original, Receipt, State, Traffic
from cloudside.mail.store.sqlite import Job, StorageFullError, T, Writer

FILE_NAME = "queue.sqlite"

#: Space that stays free so that deliveries, bounces and reports can still be recorded when new mail gets 452.
RESERVE_BYTES = 64 * 1024 * 1024
#: A message is in the WAL and in the database at once, and the checkpoint may lag.
SPACE_FACTOR = 3
#: How much of a header section is kept for reports.
HEAD_MAX_BYTES = 32 * 1024
#: How much of a reply is kept.
REPLY_MAX_CHARS = 500

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, origin TEXT NOT NULL, source TEXT NOT NULL, sender TEXT NOT NULL,
    subject TEXT NOT NULL, automatic INTEGER NOT NULL, accepted_at REAL NOT NULL, size INTEGER NOT NULL,
    once TEXT UNIQUE, head BLOB NOT NULL, content BLOB);
CREATE INDEX IF NOT EXISTS messages_by_origin ON messages (origin, accepted_at);
CREATE INDEX IF NOT EXISTS messages_by_time ON messages (accepted_at);
CREATE TABLE IF NOT EXISTS recipients (
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    address TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL NOT NULL,
    reply TEXT NOT NULL DEFAULT '', changed_at REAL NOT NULL, PRIMARY KEY (message, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS recipients_due ON recipients (next_attempt) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS recipients_sending ON recipients (message) WHERE state = 'sending';
CREATE TABLE IF NOT EXISTS events (
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    at REAL NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_message ON events (message, at);
CREATE TABLE IF NOT EXISTS counts (
    origin TEXT NOT NULL, hour INTEGER NOT NULL, sent INTEGER NOT NULL, PRIMARY KEY (origin, hour)) WITHOUT ROWID;
"""


def hour_of(now: float) -> int:
    """The number of the clock hour (UTC) that ``now`` lies in."""
    return int(now // 3600)


class Queue:
    """The durable queue in one directory. Use from one event loop; the work happens in the writer's thread."""

    def __init__(self, directory: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        """Open or create it. Raises ConfigurationError when the directory or the file cannot be used."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._writer = Writer(directory / FILE_NAME, SCHEMA)

    def close(self) -> None:
        """Finish what was begun, then close."""
        self._writer.close()

    def require_space(self, size_bytes: int) -> None:
        """Raise StorageFullError unless a message of this size fits and the reserve stays free."""
        if shutil.disk_usage(self._directory).free < self._reserve_bytes + SPACE_FACTOR * size_bytes:
            raise StorageFullError("mail.disk-full", path=str(self._directory))

    async def accept(self, new: NewMessage) -> Receipt:
        """Make a message durable: it now survives a power cut. Raises StorageFullError, UnavailableError."""
        return await self._run(lambda connection: _insert(connection, new))

    async def recover(self, now: float) -> int:
        """Put back what was being sent when the last process ended; its number."""

        def job(connection: sqlite3.Connection) -> int:
            connection.execute(
                "INSERT INTO events SELECT message, position, ?, 'recovered', '' FROM recipients"
                " WHERE state = 'sending'",
                (now,),
            )
            return connection.execute(
                "UPDATE recipients SET state = 'queued', next_attempt = ?, changed_at = ? WHERE state = 'sending'",
                (now, now),
            ).rowcount

        return await self._run(job)

    async def claim(self, now: float, limit: int) -> list[Attempt]:
        """Take at most ``limit`` due recipients for delivery, notices to staff before all, then the longest due."""
        return await self._run(lambda connection: _claim(connection, now, limit))

    async def next_due(self) -> float | None:
        """When the next recipient falls due; None when none waits."""

        def job(connection: sqlite3.Connection) -> float | None:
            row = connection.execute("SELECT min(next_attempt) FROM recipients WHERE state = 'queued'").fetchone()
            return None if row[0] is None else float(row[0])

        return await self._run(job)

    async def delivered(self, attempt: Attempt, now: float, reply: str) -> None:
        """The smarthost took responsibility."""

        def job(connection: sqlite3.Connection) -> None:
            _move(connection, attempt.original.id, attempt.index, State.DELIVERED, now, reply)
            _drop_content_if_finished(connection, attempt.original.id)

        await self._run(job)

    async def postpone(self, attempt: Attempt, now: float, *, until: float, reply: str, counted: bool) -> None:
        """Try again at ``until``. ``counted``: it was the recipient's failure and uses up one of its tries."""

        def job(connection: sqlite3.Connection) -> None:
            if _move(connection, attempt.original.id, attempt.index, State.QUEUED, now, reply, event="postponed"):
                connection.execute(
                    "UPDATE recipients SET next_attempt = ?, attempts = attempts + ?"
                    " WHERE message = ? AND position = ?",
                    (until, int(counted), attempt.original.id, attempt.index),
                )

        await self._run(job)

    async def fail(
        self, message_id: int, index: int, state: State, now: float, reply: str, report: NewMessage | None
    ) -> bool:
        """Finish a recipient as bounced or expired and queue the report to the sender with it, both or neither.

        False: it was finished so before (the same bounce twice), nothing is changed and no report queued.
        """

        def job(connection: sqlite3.Connection) -> bool:
            if not _move(connection, message_id, index, state, now, reply):
                return False
            if report is not None:
                _insert(connection, report)
            _drop_content_if_finished(connection, message_id)
            return True

        return await self._run(job)

    async def note(self, message_id: int, index: int, now: float, event: str, detail: str) -> None:
        """Add to the life story of a message without changing its state."""
        await self._run(lambda connection: _event(connection, message_id, index, now, event, detail))

    async def original(self, message_id: int, index: int) -> tuple[Original, str] | None:
        """What is kept of a message, and the address of its recipient ``index``; None: unknown or past retention."""

        def job(connection: sqlite3.Connection) -> tuple[Original, str] | None:
            row = connection.execute(
                "SELECT m.id, m.kind, m.origin, m.sender, m.automatic, m.accepted_at, m.head, r.address"
                " FROM messages m JOIN recipients r ON r.message = m.id WHERE m.id = ? AND r.position = ?",
                (message_id, index),
            ).fetchone()
            return None if row is None else (_original(row), str(row[7]))

        return await self._run(job)

    async def counts(self, hour: int) -> Mapping[str, int]:
        """Recipients an origin sent to in a clock hour (see hour_of)."""

        def job(connection: sqlite3.Connection) -> dict[str, int]:
            return dict(connection.execute("SELECT origin, sent FROM counts WHERE hour = ?", (hour,)).fetchall())

        return await self._run(job)

    async def traffic(self, origin: str, since: float) -> Traffic:
        """What an origin sent since then."""
        return await self._run(lambda connection: _traffic(connection, origin, since))

    async def purge(self, before: float) -> int:
        """Forget messages accepted before then whose recipients are all finished; their number."""

        def job(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM counts WHERE hour < ?", (hour_of(before),))
            return connection.execute(
                "DELETE FROM messages WHERE accepted_at < ? AND NOT EXISTS (SELECT 1 FROM recipients"
                " WHERE message = id AND state IN ('queued', 'sending'))",
                (before,),
            ).rowcount

        return await self._run(job)

    async def _run(self, job: Job[T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(job))


def _insert(connection: sqlite3.Connection, new: NewMessage) -> Receipt:
    head = split(new.content)[0][:HEAD_MAX_BYTES]
    taken = connection.execute(
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (once) DO NOTHING",
        (
            *(new.id, new.kind, new.origin, new.source, new.sender, new.subject, int(new.automatic)),
            *(new.accepted_at, len(new.content), new.once, head, new.content),
        ),
    ).rowcount
    if not taken:
        return Receipt(taken=False, hour_count=0)
    connection.executemany(
        "INSERT INTO recipients (message, position, address, state, next_attempt, changed_at)"
        " VALUES (?, ?, ?, 'queued', ?, ?)",
        [
            (new.id, position, address, new.accepted_at, new.accepted_at)
            for position, address in enumerate(new.recipients)
        ],
    )
    if not new.origin:
        return Receipt(taken=True, hour_count=0)
    row = connection.execute(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET sent = sent + excluded.sent RETURNING sent",
        (new.origin, hour_of(new.accepted_at), len(new.recipients)),
    ).fetchone()
    return Receipt(taken=True, hour_count=int(row[0]))


def _claim(connection: sqlite3.Connection, now: float, limit: int) -> list[Attempt]:
    rows = connection.execute(
        "SELECT m.id, m.kind, m.origin, m.sender, m.automatic, m.accepted_at, m.head, r.address, r.position,"
        " r.attempts, m.content FROM recipients r JOIN messages m ON m.id = r.message"
        " WHERE r.state = 'queued' AND r.next_attempt <= ?"
        " ORDER BY m.kind = 'notice' DESC, r.next_attempt LIMIT ?",
        (now, limit),
    ).fetchall()
    attempts = []
    for row in rows:
        attempt = Attempt(_original(row), int(row[8]), str(row[7]), int(row[9]), bytes(row[10]))
        _move(connection, attempt.original.id, attempt.index, State.SENDING, now, "", event=None)
        attempts.append(attempt)
    return attempts


def _original(row: tuple[int, str, str, str, int, float, bytes]) -> Original:
    message_id, kind, origin, sender, automatic, accepted_at, head = row[:7]
    return Original(message_id, Kind(kind), origin, sender, bool(automatic), accepted_at, bytes(head))


def _move(
    connection: sqlite3.Connection,
    message_id: int,
    index: int,
    state: State,
    now: float,
    reply: str,
    event: str | None = "",
) -> bool:
    """Change a state if the table of transitions allows it; ``event`` None writes no story, "" the state's name."""
    sources = sorted(PREDECESSORS[state])
    reply = reply[:REPLY_MAX_CHARS]
    allowed = ", ".join("?" * len(sources))
    statement = (
        "UPDATE recipients SET state = ?, reply = ?, changed_at = ?"  # noqa: S608 - question marks only
        f" WHERE message = ? AND position = ? AND state IN ({allowed})"
    )
    changed = connection.execute(statement, (state, reply, now, message_id, index, *sources)).rowcount
    if changed and event is not None:
        _event(connection, message_id, index, now, event or state, reply)
    return bool(changed)


def _event(connection: sqlite3.Connection, message_id: int, index: int, now: float, event: str, detail: str) -> None:
    connection.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?)", (message_id, index, now, event, detail[:REPLY_MAX_CHARS])
    )


def _drop_content_if_finished(connection: sqlite3.Connection, message_id: int) -> None:
    connection.execute(
        "UPDATE messages SET content = NULL WHERE id = ? AND NOT EXISTS"
        " (SELECT 1 FROM recipients WHERE message = ? AND state IN ('queued', 'sending'))",
        (message_id, message_id),
    )


def _traffic(connection: sqlite3.Connection, origin: str, since: float) -> Traffic:
    scope = "FROM messages m JOIN recipients r ON r.message = m.id WHERE m.origin = ? AND m.accepted_at >= ?"
    top = "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3"
    recipients = connection.execute(f"SELECT r.address, count(*) {scope} {top}", (origin, since)).fetchall()
    sources = connection.execute(f"SELECT m.source, count(*) {scope} {top}", (origin, since)).fetchall()
    subjects = connection.execute(
        "SELECT subject FROM messages WHERE origin = ? AND accepted_at >= ?"
        " GROUP BY 1 ORDER BY max(accepted_at) DESC LIMIT 3",
        (origin, since),
    ).fetchall()
    return Traffic(tuple(recipients), tuple(sources), tuple(row[0] for row in subjects))
