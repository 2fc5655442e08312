"""Taking a message: its rows, its counts, and what limits say about it, in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloudside.mail.model import Action, Kind, Limit, LimitExceededError, NewMessage, Receipt, Scope, Spilled, State
from cloudside.mail.store.engine import Session

#: A daily limit counts this many clock hours, the current one included: a day that begins at midnight would let
#: through twice as much around it.
DAY_HOURS = 24

_COUNT = (
    "INSERT INTO counts (scope, name, hour, sent) VALUES {}"
    " ON CONFLICT (scope, name, hour) DO UPDATE SET sent = counts.sent + excluded.sent RETURNING scope, sent"
)
_COUNTS = {rows: _COUNT.format(", ".join(["(?, ?, ?, ?)"] * rows)) for rows in (1, 2, 3)}
_UNCOUNT = "UPDATE counts SET sent = sent - ? WHERE scope = ? AND name = ? AND hour = ?"
_DAY = "SELECT sum(sent) FROM counts WHERE scope = ? AND name = ? AND hour > ? AND hour <= ?"
_MESSAGE = (
    "INSERT INTO messages (id, kind, tenant, origin, device, source, sender, subject, automatic, urgent, accepted_at,"
    " size, once, head) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT {} DO NOTHING RETURNING seq"
)
_NEW_MESSAGE = _MESSAGE.format("(once) WHERE once IS NOT NULL")
_ANY_MESSAGE = _MESSAGE.format("")
_BODY = "INSERT INTO bodies (message, body) VALUES (?, ?)"
_RECIPIENT = (
    "INSERT INTO recipients (message, position, address, state, priority, next_attempt, changed_at, reply)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def hour_of(now: float) -> int:
    """The number of the clock hour (UTC) that ``now`` lies in."""
    return int(now // 3600)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A limit that refuses. A value and not an exception: nothing of the transaction has to be given up for it."""

    limit: Limit
    words: str

    def error(self) -> LimitExceededError:
        """What the caller of accept gets."""
        return LimitExceededError("mail.limit-exceeded", scope=self.limit.scope, name=self.limit.name, why=self.words)


def order_of(new: NewMessage) -> tuple[str, ...]:
    """Where a message stands in a group, so that two groups at once take the rows of counts in the same order."""
    return (new.tenant, new.origin, new.device)


def insert(session: Session, new: NewMessage, *, perhaps_again: bool = False) -> Receipt | Refusal:
    """Write a message and count it, unless a limit refuses it or one with the same ``once`` is there.

    ``perhaps_again``: or this very message. Otherwise two with one id are a fault.
    """
    counted = _scopes(new)
    counts = _count(session, counted, new)
    held = new.held
    over = _over(session, new, counts)
    for limit, words in over:
        if limit.action is Action.REFUSE:
            _uncount(session, counted, new)
            return Refusal(limit, words)
        held = held or f"limit: {words}"
    # Not fetchone: a statement with RETURNING that is not read to its end stays open.
    rows = session.execute(
        _ANY_MESSAGE if perhaps_again else _NEW_MESSAGE,
        (
            *(new.id, new.kind.value, new.tenant, new.origin, new.device, new.source, new.sender, new.subject),
            *(int(new.automatic), int(new.urgent), new.accepted_at, new.size, new.once, new.head),
        ),
    ).fetchall()
    if not rows:
        _uncount(session, counted, new)
        return Receipt(taken=False, held="", hour_count=0)
    ((seq,),) = rows
    session.execute(_BODY, (seq, None if isinstance(new.body, Spilled) else new.body))
    state = (State.HELD if held else State.QUEUED).value
    at, priority = new.accepted_at, priority_of(new.kind, urgent=new.urgent)
    recipients = [
        (seq, position, address, state, priority, at, at, held) for position, address in enumerate(new.recipients)
    ]
    if len(recipients) == 1:
        session.execute(_RECIPIENT, recipients[0])
    else:
        session.executemany(_RECIPIENT, recipients)
    return Receipt(taken=True, held=held, hour_count=counts.get(Scope.SITE, 0))


def priority_of(kind: Kind, *, urgent: bool) -> int:
    """Notices to staff before urgent mail before the rest."""
    return 0 if kind is Kind.NOTICE else 1 if urgent else 2


def _scopes(new: NewMessage) -> Sequence[tuple[Scope, str]]:
    """What a message is counted under; nothing for our own."""
    if not new.origin:
        return ()
    named = ((Scope.TENANT, new.tenant), (Scope.SITE, new.origin), (Scope.DEVICE, new.device))
    return [(scope, name) for scope, name in named if name]


def _count(session: Session, counted: Sequence[tuple[Scope, str]], new: NewMessage) -> dict[str, int]:
    if not counted:
        return {}
    hour, sent = hour_of(new.accepted_at), len(new.recipients)
    values = [value for scope, name in counted for value in (scope.value, name, hour, sent)]
    return dict(session.execute(_COUNTS[len(counted)], values).fetchall())


def _uncount(session: Session, counted: Sequence[tuple[Scope, str]], new: NewMessage) -> None:
    hour, sent = hour_of(new.accepted_at), len(new.recipients)
    session.executemany(_UNCOUNT, [(sent, scope.value, name, hour) for scope, name in counted])


def _over(session: Session, new: NewMessage, counts: dict[str, int]) -> list[tuple[Limit, str]]:
    """Limits that hold or refuse and that the message, counted already, is above; refusing ones first."""
    found = []
    for limit in new.limits:
        if limit.action is Action.NOTIFY or limit.scope not in counts:
            continue
        in_hour = counts[limit.scope]
        if limit.hourly is not None and in_hour > limit.hourly:
            found.append((limit, f"{limit.scope} {limit.name} {in_hour}/{limit.hourly} in an hour"))
        elif limit.daily is not None:
            hour = hour_of(new.accepted_at)
            row = session.execute(_DAY, (limit.scope.value, limit.name, hour - DAY_HOURS, hour)).fetchone()
            in_day = int(row[0] or 0)
            if in_day > limit.daily:
                found.append((limit, f"{limit.scope} {limit.name} {in_day}/{limit.daily} in a day"))
    return sorted(found, key=lambda one: one[0].action is not Action.REFUSE)
