"""Messages, recipients and the states a recipient goes through. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where one recipient of one message stands."""

    QUEUED = "queued"
    SENDING = "sending"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    EXPIRED = "expired"


#: What may follow. DELIVERED -> BOUNCED: the smarthost took it and reported later. SENDING -> QUEUED also at start-up:
#: after a crash nobody knows whether the smarthost took it, and twice is better than never (RFC 1047).
#: QUEUED -> BOUNCED: a report overtook a redelivery.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.SENDING, State.BOUNCED}),
    State.SENDING: frozenset({State.QUEUED, State.DELIVERED, State.BOUNCED, State.EXPIRED}),
    State.DELIVERED: frozenset({State.BOUNCED}),
    State.BOUNCED: frozenset(),
    State.EXPIRED: frozenset(),
}

#: States that a transition into the key may come from.
PREDECESSORS: dict[State, frozenset[State]] = {
    target: frozenset(source for source, targets in TRANSITIONS.items() if target in targets) for target in State
}


class Kind(StrEnum):
    """Whose message it is. Only MAIL earns its sender a report when it fails; reports about the others are absorbed."""

    MAIL = "mail"
    DSN = "dsn"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message about to be made durable.

    ``origin`` is the site id, or ``server/<id>``; empty for our own messages. ``sender`` is empty for the null sender.
    ``automatic``: an auto-reply or bulk mail, whose failure nobody is told of (RFC 3834). ``once``: a second message
    with the same value is not taken. ``accepted_at`` in seconds since the epoch.
    """

    id: int
    kind: Kind
    origin: str
    source: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    content: bytes
    accepted_at: float
    automatic: bool = False
    once: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A message is durable. ``hour_count``: recipients of the same origin in the same clock hour, this one included.

    ``taken`` is false when a message with the same ``once`` is there already.
    """

    taken: bool
    hour_count: int


@dataclass(frozen=True, slots=True)
class Original:
    """What is kept of a message for reports about it. ``head`` is its header section."""

    id: int
    kind: Kind
    origin: str
    sender: str
    automatic: bool
    accepted_at: float
    head: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recipient claimed for delivery. ``attempts``: temporary failures so far."""

    original: Original
    index: int
    recipient: str
    attempts: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a flood looks like: the most frequent recipients and sources with their counts, and three subjects."""

    recipients: tuple[tuple[str, int], ...]
    sources: tuple[tuple[str, int], ...]
    subjects: tuple[str, ...]


def shown_id(message_id: int) -> str:
    """A message id as people and logs see it: 16 hexadecimal digits."""
    return f"{message_id:016x}"
