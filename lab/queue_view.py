"""A look at an embedded mail queue: read-only, beside a running relay or without one."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cloudside.errors import InputError, UnavailableError
from cloudside.mail.model import UNFINISHED, Entry, Happening, Selection, Story, number_of
from cloudside.mail.store import looking
from cloudside.mail.store.queue import FILE_NAME

__all__ = ["Entry", "Happening", "Story", "counts", "trace", "waiting"]


def waiting(directory: Path, *, limit: int = 1000) -> list[Entry]:
    """What is not finished, oldest first. Raises UnavailableError: no queue there, or unreadable."""
    with _opened(directory) as connection:
        return looking.entries(connection, Selection(states=UNFINISHED), limit)


def counts(directory: Path) -> dict[str, int]:
    """Recipients by state, of all messages within the retention. Raises UnavailableError."""
    with _opened(directory) as connection:
        return looking.states(connection)


def trace(directory: Path, what: str, *, limit: int = 20) -> list[Story]:
    """Messages by id (16 hex digits), or by sender, recipient or site, newest first.

    Raises InputError when nothing matches, UnavailableError.
    """
    number = number_of(what)
    wanted = [Selection(address=what), Selection(origins=(what,))]
    if number is not None:
        wanted.insert(0, Selection(ids=(number,)))
    with _opened(directory) as connection:
        for which in wanted:
            if stories := looking.stories(connection, which, limit):
                return stories
    raise InputError("mail.nothing-found", what=what)


@contextmanager
def _opened(directory: Path) -> Iterator[sqlite3.Connection]:
    path = directory / FILE_NAME
    if not path.exists():
        raise UnavailableError("mail.no-queue", path=str(path))
    try:
        # mode=ro: this connection must never checkpoint (see sqlite).
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise UnavailableError("mail.queue-failed", path=str(path), reason=str(error)) from error
