"""What the queue tells without changing anything."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from cloudside.mail.model import (
    UNFINISHED,
    Entry,
    Happening,
    Original,
    Scope,
    Selection,
    State,
    Story,
    Suppressing,
    Traffic,
    shown_id,
)
from cloudside.mail.store.accepting import hour_of
from cloudside.mail.store.engine import Session
from cloudside.mail.store.moving import ORIGINAL_COLUMNS
from cloudside.mail.store.moving import original as original_of
from cloudside.mail.store.selecting import where

#: As many names are asked for at once.
_NAMES_MAX = 500

_ENTRY = (
    "SELECT m.id, m.kind, m.tenant, m.origin, m.device, m.sender, r.address, m.subject, m.size, m.accepted_at,"
    " m.urgent, r.state, r.outcome, r.attempts, r.next_attempt, r.reply, r.remote_id, r.changed_at"
    " FROM recipients r JOIN messages m ON m.seq = r.message WHERE "
)
_NEXT_DUE = " UNION ALL ".join(
    f"SELECT min(next_attempt) FROM recipients WHERE state = 'queued' AND priority = {priority}"  # noqa: S608
    for priority in (0, 1, 2)
)
# The distinct names of an index's first column, each by one look into the index.
_LAST_HOURS = """WITH RECURSIVE names(name) AS (
    SELECT min(name) FROM counts WHERE scope = 'site'
    UNION ALL SELECT (SELECT min(name) FROM counts WHERE scope = 'site' AND name > names.name)
    FROM names WHERE names.name IS NOT NULL)
SELECT name, (SELECT max(hour) FROM counts WHERE scope = 'site' AND counts.name = names.name AND sent > 0),
    (SELECT max(accepted_at) FROM messages WHERE origin = names.name) FROM names WHERE name IS NOT NULL"""


def next_due(session: Session) -> float | None:
    """When the next recipient falls due."""
    return min((float(due) for (due,) in session.execute(_NEXT_DUE).fetchall() if due is not None), default=None)


def original(session: Session, message_id: int, index: int) -> tuple[Original, str] | None:
    """What is kept of a message, and the address of one recipient."""
    row = session.execute(
        f"SELECT {ORIGINAL_COLUMNS}, r.address FROM recipients r JOIN messages m ON m.seq = r.message"  # noqa: S608
        " WHERE m.id = ? AND r.position = ?",
        (message_id, index),
    ).fetchone()
    return None if row is None else (original_of(row[:10]), str(row[10]))


def by_remote_id(session: Session, remote_id: str) -> tuple[tuple[int, int], ...]:
    """Message id and index of what the smarthost calls ``remote_id``."""
    rows = session.execute(
        "SELECT m.id, r.position FROM recipients r JOIN messages m ON m.seq = r.message"
        " WHERE r.remote_id = ? AND r.remote_id <> ''",
        (remote_id,),
    ).fetchall()
    return tuple((message_id, index) for message_id, index in rows)


def entries(session: Session, which: Selection, limit: int) -> list[Entry]:
    """Recipients, the oldest message first."""
    condition, values = where(which)
    rows = session.execute(
        f"{_ENTRY}{condition} ORDER BY m.accepted_at, m.seq, r.position LIMIT ?", [*values, limit]
    ).fetchall()
    return [_entry(row) for row in rows]


def stories(session: Session, which: Selection, limit: int) -> list[Story]:
    """Whole messages of which a recipient is selected, the newest first."""
    condition, values = where(which)
    rows = session.execute(
        "SELECT DISTINCT m.seq, m.accepted_at FROM recipients r JOIN messages m ON m.seq = r.message"  # noqa: S608
        f" WHERE {condition} ORDER BY m.accepted_at DESC, m.seq DESC LIMIT ?",
        [*values, limit],
    ).fetchall()
    return [_story(session, seq) for seq, _ in rows]


def states(session: Session) -> dict[str, int]:
    """Recipients by state, of all messages that are remembered."""
    return dict(session.execute("SELECT state, count(*) FROM recipients GROUP BY 1").fetchall())


def waiting(session: Session) -> dict[str, int]:
    """Recipients that are not finished, by state: each by an index of its own, which has no others."""
    return {
        state.value: count
        for state in UNFINISHED
        for (count,) in session.execute(f"SELECT count(*) FROM recipients WHERE state = '{state.value}'").fetchall()  # noqa: S608
    }


def parked(session: Session) -> dict[str, list[int]]:
    """Ids of messages that ended one relay after the other, by origin."""
    found: dict[str, list[int]] = {}
    rows = session.execute(
        "SELECT DISTINCT m.origin, m.id FROM recipients r JOIN messages m ON m.seq = r.message"
        " WHERE r.state = 'held' AND r.reply = 'poison' ORDER BY m.id"
    ).fetchall()
    for origin, message_id in rows:
        found.setdefault(origin, []).append(message_id)
    return found


def counts(session: Session, scope: Scope, since_hour: int, until_hour: int) -> dict[str, int]:
    """Recipients by name in the hours from ``since_hour`` until before ``until_hour``."""
    rows = session.execute(
        # Grouped by an expression: by the name itself SQLite would walk all hours of all names in that order.
        "SELECT coalesce(name, ''), sum(sent) FROM counts"
        " WHERE scope = ? AND hour >= ? AND hour < ? AND sent > 0 GROUP BY 1",
        (scope.value, since_hour, until_hour),
    ).fetchall()
    return {name: int(sent) for name, sent in rows}


def hours(session: Session, scope: Scope, names: Iterable[str], since_hour: int) -> dict[str, dict[int, int]]:
    """Recipients by name and hour; hours without any are left out."""
    found: dict[str, dict[int, int]] = {}
    wanted = sorted(set(names))
    for start in range(0, len(wanted), _NAMES_MAX):
        some = wanted[start : start + _NAMES_MAX]
        rows = session.execute(
            "SELECT name, hour, sent FROM counts WHERE scope = ? AND hour >= ? AND sent > 0"  # noqa: S608
            f" AND name IN ({', '.join('?' * len(some))})",
            (scope.value, since_hour, *some),
        ).fetchall()
        for name, hour, sent in rows:
            found.setdefault(name, {})[hour] = sent
    return found


def outcomes(session: Session, origin: str, since: float) -> dict[str, int]:
    """What became of an origin's mail accepted since then; what was complained about counts as that only."""
    rows = session.execute(
        "SELECT CASE WHEN r.outcome = 'complained' THEN 'complained' ELSE r.state END, count(*)"
        " FROM messages m JOIN recipients r ON r.message = m.seq"
        " WHERE m.origin = ? AND m.accepted_at >= ? GROUP BY 1",
        (origin, since),
    ).fetchall()
    return dict(rows)


def domains(session: Session, origin: str, since: float, until: float) -> dict[str, int]:
    """Recipients' domains in lower case, with how many recipients."""
    found: Counter[str] = Counter()
    for address, count in _by(session, "r.address", origin, since, until):
        found[address.rpartition("@")[2].lower()] += count
    return dict(found)


def sources(session: Session, origin: str, since: float, until: float) -> dict[str, int]:
    """Addresses that an origin's mail came from, with how many recipients."""
    return dict(_by(session, "m.source", origin, since, until))


def last_mail(session: Session) -> dict[str, float]:
    """When the newest mail of each origin was accepted; to the end of its clock hour when it is forgotten itself."""
    found: dict[str, float] = {}
    for name, hour, at in session.execute(_LAST_HOURS).fetchall():
        if hour is not None:
            found[name] = float(at) if at is not None and hour_of(at) >= hour else hour * 3600.0 + 3599.0
    return found


def traffic(session: Session, scope: Scope, name: str, since: float) -> Traffic:
    """The most frequent of what was sent since then."""
    column = {Scope.TENANT: "m.tenant", Scope.SITE: "m.origin", Scope.DEVICE: "m.device"}[scope]
    which = f"FROM messages m JOIN recipients r ON r.message = m.seq WHERE {column} = ? AND m.accepted_at >= ?"
    top = "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3"
    recipients = session.execute(f"SELECT r.address, count(*) {which} {top}", (name, since)).fetchall()
    found = session.execute(f"SELECT m.source, count(*) {which} {top}", (name, since)).fetchall()
    subjects = session.execute(
        f"SELECT m.subject FROM messages m WHERE {column} = ? AND m.accepted_at >= ?"  # noqa: S608
        " GROUP BY 1 ORDER BY max(m.accepted_at) DESC LIMIT 3",
        (name, since),
    ).fetchall()
    return Traffic(tuple(map(tuple, recipients)), tuple(map(tuple, found)), tuple(row[0] for row in subjects))


def suppressing(session: Session) -> list[Suppressing]:
    """The outbox of addresses to be suppressed, the oldest first."""
    rows = session.execute(
        "SELECT seq, tenant, address, cause, reason, message, at FROM suppressing ORDER BY seq LIMIT 1000"
    ).fetchall()
    return [Suppressing(*row) for row in rows]


def _by(session: Session, column: str, origin: str, since: float, until: float) -> Sequence[tuple[str, int]]:
    return session.execute(
        f"SELECT {column}, count(*) FROM messages m JOIN recipients r ON r.message = m.seq"  # noqa: S608
        " WHERE m.origin = ? AND m.accepted_at >= ? AND m.accepted_at < ? GROUP BY 1",
        (origin, since, until),
    ).fetchall()


def _story(session: Session, seq: int) -> Story:
    rows = session.execute(f"{_ENTRY}m.seq = ? ORDER BY r.position", (seq,)).fetchall()
    events = session.execute(
        "SELECT e.at, r.address, e.event, e.detail FROM events e JOIN recipients r ON r.message = e.message"
        " AND r.position = e.position WHERE e.message = ? ORDER BY e.at, e.seq",
        (seq,),
    ).fetchall()
    happened = [(float(row[9]), str(row[6]), "accepted", "") for row in rows]
    happened += [(float(at), address, event, detail) for at, address, event, detail in events]
    # What was delivered is told by its row: the plain way writes no event.
    happened += [(float(row[17]), str(row[6]), "delivered", row[15]) for row in rows if row[11] == State.DELIVERED]
    happened.sort(key=lambda one: one[0])
    return Story(
        tuple(_entry(row) for row in rows),
        tuple(Happening(_time(at), address, event, detail) for at, address, event, detail in happened),
    )


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(
        message=shown_id(row[0]),
        kind=row[1],
        tenant=row[2],
        origin=row[3],
        device=row[4],
        sender=row[5],
        recipient=row[6],
        subject=row[7],
        size=row[8],
        accepted_at=_time(row[9]),
        urgent=bool(row[10]),
        state=row[11],
        outcome=row[12],
        attempts=row[13],
        next_attempt=_time(row[14]) if row[11] == State.QUEUED else None,
        reply=row[15],
        remote_id=row[16],
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
