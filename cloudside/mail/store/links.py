"""One connection to PostgreSQL: the queue's statements in its dialect, its errors as ours, reconnecting.

A transaction whose connection broke before its COMMIT was sent never happened, and is run again. If it broke during the
COMMIT nobody knows, and the caller gets UnavailableError: a client sends again, and twice is better than never.
"""

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cloudside.errors import ConfigurationError, KyotenError, UnavailableError
from cloudside.mail.store.engine import Cursor, Job, StorageFullError, T

#: The queue's tables have a schema of their own: they may share a database with the registry.
SCHEMA = "kyoten_mail"
#: Seconds that a server may take to accept a connection.
CONNECT_S = 5
#: While the server is away it is asked once in so many seconds; everybody else is told at once.
RECONNECT_S = 0.5
#: How many times a transaction is begun again that another one made impossible.
_TRIES = 5

_DISK_FULL = psycopg.errors.DiskFull
_COLLIDED = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class PostgresqlSession:
    """A connection as jobs see it (see engine.Session)."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Run one statement."""
        return self._connection.execute(_spoken(statement), parameters or None)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Cursor:
        """Run one statement with each of several parameter rows."""
        cursor = self._connection.cursor()
        cursor.executemany(_spoken(statement), list(rows))
        return cursor


class Link:
    """A connection that is made when it is needed. For one thread at a time."""

    def __init__(self, arguments: dict[str, Any], where: str) -> None:
        self._arguments = arguments
        self._where = where
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._next_try = 0.0

    def transact(self, work: Job[T], *, read_only: bool = False) -> T:
        """Run ``work`` in a transaction; when this returns, it is durable.

        Raises UnavailableError, StorageFullError, or what ``work`` raised.
        """
        for tries_left in reversed(range(_TRIES)):
            connection = self._connected()
            committing = False
            try:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if read_only else "BEGIN")
                found = work(PostgresqlSession(connection))
                committing = not read_only
                connection.execute("COMMIT")
            except BaseException as error:
                self._give_up(connection)
                broken = self._connection is None
                again = (broken and not committing) or isinstance(error, _COLLIDED)
                if not isinstance(error, psycopg.Error) or not again or not tries_left:
                    raise self.translated(error) from error
            else:
                return found
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection. If not after a transaction failed, nobody knows what came of it."""
        return self._connection is not None

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The connection, for what is more than a transaction. Raises UnavailableError."""
        return self._connected()

    def translated(self, error: BaseException) -> BaseException:
        """PostgreSQL's error as ours; others as they are."""
        if isinstance(error, KyotenError) or not isinstance(error, psycopg.Error):
            return error
        if isinstance(error, _DISK_FULL):
            return StorageFullError("mail.disk-full", path=self._where)
        reason = " ".join(str(error).split())  # libpq speaks in several lines
        return UnavailableError("mail.queue-failed", path=self._where, reason=reason)

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is not None:
            return self._connection
        now = time.monotonic()
        if now < self._next_try:
            raise UnavailableError("mail.queue-failed", path=self._where, reason="the database server is away")
        try:
            self._connection = psycopg.connect(**self._arguments)
        except psycopg.Error as error:
            self._next_try = now + RECONNECT_S
            raise self.translated(error) from error
        return self._connection

    def _give_up(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """End a transaction that failed; forget a connection that cannot even do that."""
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()


def arguments(url: str) -> tuple[dict[str, Any], str]:
    """What psycopg connects with, and how people call the place. Raises ConfigurationError: no such URL, a password."""
    try:
        found = make_url(url)
    except ArgumentError:
        raise ConfigurationError("mail.queue-bad-url") from None  # without its text: there may be a password in it
    if found.password is not None or "password" in found.query:
        raise ConfigurationError("mail.queue-password-in-url")
    if found.get_backend_name() != "postgresql":
        raise ConfigurationError("mail.queue-bad-url")
    return _arguments(found), str(found.host or found.query.get("host") or found.database or "-")


def _arguments(url: URL) -> dict[str, Any]:
    given = {**url.query, **url.translate_connect_args(username="user", database="dbname")}
    return {
        "connect_timeout": CONNECT_S,
        # A server that is gone without a word is noticed within half a minute, not after the kernel's two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
        **given,
        "options": f"-c search_path={SCHEMA} -c synchronous_commit=on",
        "autocommit": True,  # we begin transactions ourselves
    }


@lru_cache(maxsize=500)
def _spoken(statement: str) -> bytes:
    """The statement in PostgreSQL's dialect."""
    spoken = statement.replace("?", "%s")
    spoken = spoken.replace("/*skip locked*/", " FOR UPDATE OF r SKIP LOCKED").replace("/*lock*/", " FOR UPDATE OF r")
    return spoken.encode()
