"""Forgetting what the retention is over for, a batch at a time, and which messages have their body in a file."""

from cloudside.mail.model import UNFINISHED
from cloudside.mail.store.engine import Session

#: Messages, or hours of counts, in one transaction: others wait for it.
BATCH_MAX = 500

_UNFINISHED = ", ".join(f"'{state.value}'" for state in UNFINISHED)


def finished(session: Session, before: float) -> list[int]:
    """Messages accepted before then that nobody waits for any more. One that is finished stays so."""
    rows = session.execute(
        "SELECT m.seq FROM messages m WHERE m.accepted_at < ? AND NOT EXISTS (SELECT 1 FROM recipients r"  # noqa: S608
        f" WHERE r.message = m.seq AND r.state IN ({_UNFINISHED})) ORDER BY m.accepted_at LIMIT ?",
        (before, BATCH_MAX),
    ).fetchall()
    return [seq for (seq,) in rows]


def forget(session: Session, batch: list[int]) -> None:
    """Take messages away with all that belongs to them."""
    rows = [(seq,) for seq in batch]
    for statement in (
        "DELETE FROM feedback WHERE message = ?",
        "DELETE FROM events WHERE message = ?",
        "DELETE FROM recipients WHERE message = ?",
        "DELETE FROM bodies WHERE message = ?",
        "DELETE FROM messages WHERE seq = ?",
    ):
        session.executemany(statement, rows)


def forget_left_bodies(session: Session) -> int:
    """Take away bodies that nobody needs: of a message whose last two recipients were finished at the same moment, each
    transaction saw the other's as unfinished. Only with several writers."""
    return session.execute(
        "DELETE FROM bodies WHERE NOT EXISTS (SELECT 1 FROM recipients"  # noqa: S608
        f" WHERE message = bodies.message AND state IN ({_UNFINISHED}))"
    ).rowcount


def old_counts(session: Session, before_hour: int) -> list[tuple[str, str, int]]:
    """Counts of hours before that one."""
    rows = session.execute(
        "SELECT scope, name, hour FROM counts WHERE scope IN ('tenant', 'site', 'device') AND hour < ? LIMIT ?",
        (before_hour, BATCH_MAX),
    ).fetchall()
    return [tuple(row) for row in rows]


def forget_counts(session: Session, batch: list[tuple[str, str, int]]) -> None:
    """Take counts away."""
    session.executemany("DELETE FROM counts WHERE scope = ? AND name = ? AND hour = ?", batch)


def ids_in_files(session: Session) -> set[int]:
    """Ids of messages whose body is in a file."""
    rows = session.execute(
        "SELECT m.id FROM bodies b JOIN messages m ON m.seq = b.message WHERE b.body IS NULL"
    ).fetchall()
    return {message_id for (message_id,) in rows}
