"""Messages, recipients and the states a recipient goes through. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cloudside.errors import RefusedError


class State(StrEnum):
    """Where one recipient of one message stands."""

    QUEUED = "queued"
    SENDING = "sending"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    #: It waits until somebody releases it.
    HELD = "held"
    #: Ended by staff; nobody is told.
    DROPPED = "dropped"


#: What may follow. DELIVERED -> BOUNCED: the smarthost took it and reported later. SENDING -> QUEUED also at start-up:
#: after a crash nobody knows whether the smarthost took it, and twice is better than never (RFC 1047).
#: SENDING -> HELD: each of the processes that tried to send it ended; it may be what ended them.
#: QUEUED -> BOUNCED, HELD -> BOUNCED: a report overtook a redelivery. QUEUED -> DELIVERED: a relay that was taken for
#: dead had delivered it.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.SENDING, State.DELIVERED, State.BOUNCED, State.HELD, State.DROPPED}),
    State.SENDING: frozenset({State.QUEUED, State.DELIVERED, State.BOUNCED, State.EXPIRED, State.HELD}),
    State.HELD: frozenset({State.QUEUED, State.BOUNCED, State.DROPPED}),
    State.DELIVERED: frozenset({State.BOUNCED}),
    State.BOUNCED: frozenset(),
    State.EXPIRED: frozenset(),
    State.DROPPED: frozenset(),
}

#: States that a transition into the key may come from.
PREDECESSORS: dict[State, frozenset[State]] = {
    target: frozenset(source for source, targets in TRANSITIONS.items() if target in targets) for target in State
}

#: A recipient in one of these still needs the message's body, and is never forgotten.
UNFINISHED = (State.QUEUED, State.SENDING, State.HELD)


class Kind(StrEnum):
    """Whose message it is. Only MAIL earns its sender a report when it fails; reports about the others are absorbed."""

    MAIL = "mail"
    DSN = "dsn"
    NOTICE = "notice"


class Scope(StrEnum):
    """Whose recipients are counted together. SITE: also cloud servers, as ``server/<id>``."""

    TENANT = "tenant"
    SITE = "site"
    DEVICE = "device"


class Action(StrEnum):
    """What happens to mail above a limit."""

    #: It goes out; staff are told.
    NOTIFY = "notify"
    #: It is taken and waits.
    HOLD = "hold"
    #: It is not taken, and the client is asked to come again (450).
    REFUSE = "refuse"


class LimitExceededError(RefusedError):
    """The mail would go above a limit whose action is REFUSE. Nothing was stored; the client gets 450."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many recipients in a clock hour, and in the last 24 clock hours. None: no limit. Raises are applied."""

    scope: Scope
    name: str
    hourly: int | None
    daily: int | None
    action: Action


@dataclass(frozen=True, slots=True)
class Spilled:
    """A body in a file of ``<queue directory>/incoming``: CRLF text, written, not yet synced. ``size`` in octets.

    Once it was given to Queue.accept it is the queue's, whatever comes of the message.
    """

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message about to be made durable.

    ``origin`` is the site id, or ``server/<id>``; empty for our own messages. ``tenant`` is empty for cloud servers and
    our own. ``device`` is a user name, or the source address of mail known by address; empty for our own. ``sender`` is
    empty for the null sender. ``head`` is the header section, each line with its CRLF, without the empty line.
    ``automatic``: an auto-reply or bulk mail, whose failure nobody is told of (RFC 3834). ``once``: a second message
    with the same value is not taken. ``held``: why it waits from the start ("hold: <reason>"); empty: it does not.
    ``accepted_at`` in seconds since the epoch.
    """

    id: int
    kind: Kind
    origin: str
    source: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    head: bytes
    body: bytes | Spilled
    accepted_at: float
    automatic: bool = False
    once: str | None = None
    tenant: str = ""
    device: str = ""
    urgent: bool = False
    held: str = ""
    limits: tuple[Limit, ...] = ()

    @property
    def size(self) -> int:
        """Octets of the whole mail: head, empty line, body."""
        body = self.body.size if isinstance(self.body, Spilled) else len(self.body)
        return len(self.head) + 2 + body


@dataclass(frozen=True, slots=True)
class Receipt:
    """A message is durable. ``hour_count``: recipients of the same origin in the same clock hour, this one included.

    ``taken`` is false when a message with the same ``once`` is there already. ``held``: why it waits ("limit: ...", or
    what the new message said); empty: it goes out.
    """

    taken: bool
    held: str
    hour_count: int


@dataclass(frozen=True, slots=True)
class Original:
    """What is kept of a message for reports about it. ``head`` is its header section, clipped when it is very long."""

    id: int
    kind: Kind
    tenant: str
    origin: str
    device: str
    sender: str
    automatic: bool
    accepted_at: float
    subject: str
    head: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recipient claimed for delivery. ``attempts``: temporary failures so far. ``size`` of the whole mail, octets.

    The mail is ``head``, CRLF, ``body``; ``head`` is whole here, other than the original's. A ``body`` in a file stays
    there at least until this recipient is finished.
    """

    original: Original
    index: int
    recipient: str
    attempts: int
    urgent: bool
    head: bytes
    body: bytes | Path
    size: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Recipients of messages: those that match all that is given. ``origins`` empty matches nothing; None: any.

    ``address`` is the sender's or the recipient's, in any case. ``since`` (inclusive) and ``until`` (exclusive) are
    about when it was accepted, in seconds since the epoch.
    """

    ids: tuple[int, ...] = ()
    origins: tuple[str, ...] | None = None
    tenant: str | None = None
    device: str = ""
    address: str = ""
    since: float | None = None
    until: float | None = None
    states: tuple[State, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One recipient of one message. ``next_attempt`` only while it waits for its turn.

    ``outcome`` says more than the state: ``permanent`` or ``temporary`` for what bounced, ``complained`` for what was
    delivered and called unwanted. ``reply``: the last words about it, of a remote server or of whoever held it.
    """

    message: str
    kind: str
    tenant: str
    origin: str
    device: str
    sender: str
    recipient: str
    subject: str
    size: int
    accepted_at: datetime
    urgent: bool
    state: str
    outcome: str
    attempts: int
    next_attempt: datetime | None
    reply: str
    remote_id: str


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


@dataclass(frozen=True, slots=True)
class Suppressing:
    """An address that is to be suppressed for a tenant's mail. ``cause``: bounce or complaint. ``message``: its id."""

    id: int
    tenant: str
    address: str
    cause: str
    reason: str
    message: int
    at: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a flood looks like: the most frequent recipients and sources with their counts, and three subjects."""

    recipients: tuple[tuple[str, int], ...]
    sources: tuple[tuple[str, int], ...]
    subjects: tuple[str, ...]


def shown_id(message_id: int) -> str:
    """A message id as people and logs see it: 16 hexadecimal digits."""
    return f"{message_id:016x}"


def number_of(shown: str) -> int | None:
    """The message id that people see as ``shown``; None: it is none."""
    try:
        found = int(shown, 16) if len(shown) == 16 else -1
    except ValueError:
        return None
    return found if 0 <= found < 1 << 63 else None
