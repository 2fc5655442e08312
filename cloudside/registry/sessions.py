"""The sessions that change the registry. What they do by themselves stands in revisions and auditing.

A writing session holds the registry's lock from its start to its end: what it reads stays so until it has written, and
entries of the audit log get their numbers one after the other. A recording session is for what daemons observe: it
takes the lock only when it comes upon a change that is audited, so thousands of heartbeats do not queue behind a
policy. What the rules are made of, and addresses are given out from, it must not touch at all.

SQLite has one writer at a time whatever we do: there both take the lock at their start (see database).
"""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

#: PostgreSQL's advisory lock of the registry: "kyoten" in ASCII. It belongs to the database, others have their own.
LOCK_KEY = int.from_bytes(b"kyoten", "big")


class WritingSession(Session):
    """What Database.write hands out. ``actor``: who answers for what it changes; ``clock``: when that is."""

    #: Whether it may change what a decision was taken on: the lock is held from its start.
    decides = True

    def __init__(self, engine: Engine, *, actor: str, clock: Callable[[], datetime]) -> None:
        super().__init__(engine, expire_on_commit=False)
        self.actor = actor
        self.clock = clock


class RecordingSession(WritingSession):
    """What Database.record hands out."""

    decides = False


def take_lock(connection: Connection) -> None:
    """Wait until no other transaction holds the registry's lock; it ends with the transaction. Held already: at once.

    SQLite's lock is taken as the transaction begins, so there is nothing to do.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
