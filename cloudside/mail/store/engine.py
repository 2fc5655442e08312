"""What the queue asks of an engine, in words that SQLite and PostgreSQL share.

A job is a function of a session: statements of one transaction, with ``?`` for parameters. It may be run again from the
beginning when its transaction had to be given up, so it changes nothing but the database. Comments in a statement are
for engines with several writers: ``/*skip locked*/`` locks the rows of alias r and leaves out what others have locked;
``/*lock*/`` waits for them.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from typing import Any, Protocol, TypeVar

from cloudside.errors import UnavailableError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StorageFullError(UnavailableError):
    """The disk has no room; nothing of the job was kept and everything earlier is intact."""


class Cursor(Protocol):
    """What a statement came to."""

    @property
    def rowcount(self) -> int:
        """Rows changed."""
        ...

    def fetchone(self) -> Any:
        """The next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...


class Session(Protocol):
    """One transaction."""

    def execute(self, statement: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run one statement."""
        ...

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Cursor:
        """Run one statement with each of several parameter rows."""
        ...


Job = Callable[[Session], T]


class Haste(Enum):
    """What a job's commit may save. An engine need not make use of it."""

    #: Somebody waits: at once, and on the disk before the future is done.
    NOW = auto()
    #: On the disk before the future is done too, but it may wait some milliseconds to share another one's commit.
    SHARED = auto()
    #: At once, and its future is done before the disk has it: what a cut makes of it is as good as if it had not been.
    UNSYNCED = auto()


class Engine(Protocol):
    """Where jobs run. Futures raise StorageFullError, UnavailableError, or what the job raised."""

    #: Whether large bodies go into files beside it: other relays would not see them.
    bodies_in_files: bool
    #: Tells relays of one queue apart.
    relay: str

    def submit(self, job: Job[T], order: tuple[str, ...] = (), *, haste: Haste = Haste.NOW) -> "Future[T]":
        """Run a job that writes. Its future is done when the disk has it. Jobs of a group are run in ``order``."""
        ...

    def read(self, job: Job[T]) -> "Future[T]":
        """Run a job that only reads what was committed, beside those that write."""
        ...

    def others(self, session: Session) -> Sequence[str]:
        """Names of the other relays that live: what they are sending is theirs."""
        ...

    def close(self) -> None:
        """Finish what was submitted, then close."""
        ...
