"""Recipients from state to state, as the table of transitions says; each function is one transaction's work.

What ends in DELIVERED by the plain way writes no event: its row tells the same. Functions that may have finished a
message return the ids of those whose body was in a file and is not needed any more.
"""

from dataclasses import dataclass

from cloudside.mail.model import (
    PREDECESSORS,
    UNFINISHED,
    Attempt,
    Kind,
    NewMessage,
    Original,
    Selection,
    State,
)
from cloudside.mail.store.accepting import insert
from cloudside.mail.store.engine import Session
from cloudside.mail.store.selecting import where

#: How much of a header section is given to reports about the message.
HEAD_MAX_BYTES = 32 * 1024
#: How much of a reply is kept.
REPLY_MAX_CHARS = 500
#: A recipient that was being sent when a relay ended goes back to the queue this many times in a row.
RECOVERIES_MAX = 3


def _states(states: frozenset[State] | tuple[State, ...]) -> str:
    return ", ".join(f"'{state.value}'" for state in sorted(states))


_SEQ = "(SELECT seq FROM messages WHERE id = ?)"
_UNFINISHED = _states(UNFINISHED)
#: Everything about a message that an Original and an Attempt say, in their order.
ORIGINAL_COLUMNS = "m.id, m.kind, m.tenant, m.origin, m.device, m.sender, m.automatic, m.accepted_at, m.subject, m.head"
_DUE = (
    "SELECT r.message, r.position FROM recipients r WHERE r.state = 'queued' AND r.priority = ?"
    " AND r.next_attempt <= ? ORDER BY r.next_attempt LIMIT ?/*skip locked*/"
)
_TAKE = "UPDATE recipients SET state = 'sending', relay = ?, changed_at = ? WHERE message = ? AND position = ?"
_ATTEMPT = (
    f"SELECT {ORIGINAL_COLUMNS}, r.position, r.address, r.attempts, m.urgent, m.size, b.body"  # noqa: S608
    " FROM recipients r JOIN messages m ON m.seq = r.message LEFT JOIN bodies b ON b.message = m.seq"
    " WHERE r.message = ? AND r.position = ?"
)
_DELIVERED = (
    "UPDATE recipients SET state = 'delivered', changed_at = ?, reply = ?, remote_id = ?, relay = ''"  # noqa: S608
    f" WHERE message = {_SEQ} AND position = ? AND state IN ({_states(PREDECESSORS[State.DELIVERED])})"
)
# Only what this relay is sending: if it was taken for dead, somebody else is at it.
_POSTPONED = (
    "UPDATE recipients SET state = 'queued', changed_at = ?, reply = ?, next_attempt = ?,"  # noqa: S608
    " attempts = attempts + ?, recovered = 0, relay = ''"
    f" WHERE message = {_SEQ} AND position = ? AND state = 'sending' AND relay = ?"
)
_KNOWN = (
    "SELECT m.seq, m.tenant, r.address, r.state, r.outcome FROM recipients r JOIN messages m ON m.seq = r.message"
    " WHERE m.id = ? AND r.position = ?/*lock*/"
)
_EVENT = "INSERT INTO events (message, position, at, event, detail) VALUES (?, ?, ?, ?, ?)"
_EVENT_BY_ID = (
    "INSERT INTO events (message, position, at, event, detail) SELECT seq, ?, ?, ?, ? FROM messages WHERE id = ?"
)
_EVENT_OF_STATE = (
    "INSERT INTO events (message, position, at, event, detail)"
    " SELECT message, position, changed_at, state, reply FROM recipients WHERE message = ? AND position = ?"
)
_FEEDBACK = "INSERT INTO feedback (message, position, feedback) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_SUPPRESSING = "INSERT INTO suppressing (tenant, address, cause, reason, message, at) VALUES (?, ?, ?, ?, ?, ?)"
_FINISHED = (
    "DELETE FROM bodies WHERE message = {} AND NOT EXISTS (SELECT 1 FROM recipients"  # noqa: S608
    f" WHERE message = bodies.message AND state IN ({_UNFINISHED})) RETURNING body IS NULL"
)
_FINISHED_BY_ID = _FINISHED.format(_SEQ)
_FINISHED_BY_SEQ = _FINISHED.format("?")


@dataclass(frozen=True, slots=True)
class Moved:
    """``changed``: something was new. ``files``: ids of messages whose body's file is not needed any more."""

    changed: bool
    files: tuple[int, ...] = ()


def original(row: tuple[int, str, str, str, str, str, int, float, str, bytes]) -> Original:
    """From ORIGINAL_COLUMNS."""
    message_id, kind, tenant, origin, device, sender, automatic, accepted_at, subject, head = row
    if len(head) > HEAD_MAX_BYTES:
        head = head[: head.rfind(b"\r\n", 0, HEAD_MAX_BYTES) + 2]
    return Original(
        *(message_id, Kind(kind), tenant, origin, device, sender, bool(automatic), accepted_at, subject, head)
    )


def claim(session: Session, now: float, limit: int, relay: str, *, urgent_only: bool) -> list[tuple[Attempt, bool]]:
    """Take due recipients: notices, then urgent mail, then the rest, each the longest due first.

    With each attempt whether its body is in a file (it is empty then).
    """
    due: list[tuple[int, int]] = []
    for priority in (0, 1) if urgent_only else (0, 1, 2):
        if len(due) < limit:
            due += session.execute(_DUE, (priority, now, limit - len(due))).fetchall()
    attempts = []
    for seq, position in due:
        session.execute(_TAKE, (relay, now, seq, position))
        row = session.execute(_ATTEMPT, (seq, position)).fetchone()
        found = original(row[:10])
        index, recipient, tried, urgent, size, body = row[10:]
        attempt = Attempt(found, index, recipient, tried, bool(urgent), bytes(row[9]), bytes(body or b""), size)
        attempts.append((attempt, body is None))
    return attempts


def recover(session: Session, now: float, others: tuple[str, ...]) -> int:
    """Put back what was being sent by relays that are not among ``others``; hold what was so too often."""
    living = f" AND relay NOT IN ({', '.join('?' * len(others))})" if others else ""
    rows = session.execute(
        f"SELECT r.message, r.position, r.recovered FROM recipients r WHERE r.state = 'sending'{living}/*skip locked*/",  # noqa: S608
        others,
    ).fetchall()
    back = [(seq, position) for seq, position, recovered in rows if recovered < RECOVERIES_MAX]
    poison = [(seq, position) for seq, position, recovered in rows if recovered >= RECOVERIES_MAX]
    session.executemany(_EVENT, [(seq, position, now, "recovered", "") for seq, position in back])
    session.executemany(
        # They were due before all that waits, and stay so: what ended the last process is then met early, and alone
        # (see Delivery.begin_carefully). A clock that went back must not make them wait.
        "UPDATE recipients SET state = 'queued', recovered = recovered + 1, changed_at = ?, relay = '',"
        " next_attempt = CASE WHEN next_attempt > ? THEN ? ELSE next_attempt END WHERE message = ? AND position = ?",
        [(now, now, now, seq, position) for seq, position in back],
    )
    session.executemany(_EVENT, [(seq, position, now, "held", "poison") for seq, position in poison])
    session.executemany(
        "UPDATE recipients SET state = 'held', changed_at = ?, reply = 'poison', relay = ''"
        " WHERE message = ? AND position = ?",
        [(now, seq, position) for seq, position in poison],
    )
    return len(back)


def restore(session: Session, now: float, relay: str, in_hand: frozenset[tuple[int, int]]) -> int:
    """Put back what this relay has claimed and does not know of: its claim's COMMIT was never answered."""
    rows = session.execute(
        "SELECT m.id, r.message, r.position FROM recipients r JOIN messages m ON m.seq = r.message"
        " WHERE r.state = 'sending' AND r.relay = ?/*lock*/",
        (relay,),
    ).fetchall()
    strays = [(seq, position) for message_id, seq, position in rows if (message_id, position) not in in_hand]
    session.executemany(
        "UPDATE recipients SET state = 'queued', changed_at = ?, relay = '' WHERE message = ? AND position = ?",
        [(now, seq, position) for seq, position in strays],
    )
    return len(strays)


def delivered(session: Session, attempt: Attempt, now: float, reply: str, remote_id: str) -> Moved:
    """The smarthost took responsibility."""
    message_id = attempt.original.id
    values = (now, reply[:REPLY_MAX_CHARS], remote_id, message_id, attempt.index)
    if not session.execute(_DELIVERED, values).rowcount:
        return Moved(changed=False)
    return Moved(changed=True, files=_finished(session, message_id))


def postpone(
    session: Session, attempt: Attempt, now: float, relay: str, *, until: float, reply: str, counted: bool
) -> None:
    """Back to the queue until then."""
    reply = reply[:REPLY_MAX_CHARS]
    message_id = attempt.original.id
    values = (now, reply, until, int(counted), message_id, attempt.index, relay)
    if session.execute(_POSTPONED, values).rowcount:
        session.execute(_EVENT_BY_ID, (attempt.index, now, "postponed", reply, message_id))


def fail(
    session: Session,
    message_id: int,
    index: int,
    state: State,
    now: float,
    reply: str,
    reports: tuple[NewMessage, ...],
    *,
    permanent: bool,
    suppress: str,
    feedback: str,
) -> Moved:
    """Finish a recipient as bounced or expired, with all that follows from it, once."""
    row = session.execute(_KNOWN, (message_id, index)).fetchone()
    if row is None:
        return Moved(changed=False)
    seq, tenant, address, before, _ = row
    new = _feedback_is_new(session, seq, index, feedback)
    if not new or State(before) not in PREDECESSORS[state]:
        return Moved(changed=False)
    reply = reply[:REPLY_MAX_CHARS]
    if before == State.DELIVERED:
        session.execute(_EVENT_OF_STATE, (seq, index))
    session.execute(
        "UPDATE recipients SET state = ?, outcome = ?, reply = ?, changed_at = ?, relay = ''"
        " WHERE message = ? AND position = ?",
        (state.value, "permanent" if permanent else "temporary", reply, now, seq, index),
    )
    session.execute(_EVENT, (seq, index, now, state.value, reply))
    if suppress:
        session.execute(_SUPPRESSING, (tenant, address.lower(), suppress, reply, message_id, now))
    for report in reports:
        insert(session, report)
    return Moved(changed=True, files=_finished(session, message_id))


def complained(
    session: Session,
    message_id: int,
    index: int,
    now: float,
    detail: str,
    reports: tuple[NewMessage, ...],
    *,
    feedback: str,
) -> bool:
    """Somebody calls a delivered mail unwanted. False: known."""
    row = session.execute(_KNOWN, (message_id, index)).fetchone()
    if row is None:
        return False
    seq, tenant, address, _, outcome = row
    new = _feedback_is_new(session, seq, index, feedback)
    if not new or outcome == "complained":
        return False
    detail = detail[:REPLY_MAX_CHARS]
    session.execute("UPDATE recipients SET outcome = 'complained' WHERE message = ? AND position = ?", (seq, index))
    session.execute(_EVENT, (seq, index, now, "complained", detail))
    session.execute(_SUPPRESSING, (tenant, address.lower(), "complaint", detail, message_id, now))
    for report in reports:
        insert(session, report)
    return True


def note(session: Session, message_id: int, index: int, now: float, event: str, detail: str, feedback: str) -> bool:
    """Add to the story without changing a state. False: this feedback is known, or the recipient is not."""
    row = session.execute(_KNOWN, (message_id, index)).fetchone()
    if row is None or not _feedback_is_new(session, row[0], index, feedback):
        return False
    session.execute(_EVENT, (row[0], index, now, event, detail[:REPLY_MAX_CHARS]))
    return True


def change(
    session: Session,
    which: Selection,
    sources: frozenset[State],
    target: State,
    now: float,
    event: str,
    reason: str | None,
) -> tuple[int, tuple[int, ...]]:
    """What staff do: those of the selected recipients that are in ``sources`` go to ``target``, due at once.

    ``reason`` None leaves the last reply as it is. Their number, and ids of messages whose body's file is not needed
    any more.
    """
    condition, values = where(which, sources)
    rows = session.execute(
        "SELECT r.message, r.position FROM recipients r JOIN messages m ON m.seq = r.message"  # noqa: S608
        f" WHERE {condition}/*lock*/",
        values,
    ).fetchall()
    detail = (reason or "")[:REPLY_MAX_CHARS]
    session.executemany(
        "UPDATE recipients SET state = ?, next_attempt = ?, changed_at = ?, recovered = 0"
        " WHERE message = ? AND position = ?",
        [(target.value, now, now, seq, position) for seq, position in rows],
    )
    if reason is not None:
        session.executemany(
            "UPDATE recipients SET reply = ? WHERE message = ? AND position = ?",
            [(detail, seq, position) for seq, position in rows],
        )
    session.executemany(_EVENT, [(seq, position, now, event, detail) for seq, position in rows])
    files: list[int] = []
    if target not in UNFINISHED:
        for seq in sorted({seq for seq, _ in rows}):
            if any(in_file for (in_file,) in session.execute(_FINISHED_BY_SEQ, (seq,)).fetchall()):
                files.append(session.execute("SELECT id FROM messages WHERE seq = ?", (seq,)).fetchone()[0])
    return len(rows), tuple(files)


def _feedback_is_new(session: Session, seq: int, index: int, feedback: str) -> bool:
    return not feedback or session.execute(_FEEDBACK, (seq, index, feedback)).rowcount == 1


def _finished(session: Session, message_id: int) -> tuple[int, ...]:
    """Take the body away if no recipient needs it any more."""
    rows = session.execute(_FINISHED_BY_ID, (message_id,)).fetchall()
    return (message_id,) if any(in_file for (in_file,) in rows) else ()
