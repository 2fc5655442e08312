"""The registry's connection: sessions for reading, for writing and for recording.

SQLite is the embedded default, PostgreSQL the production engine; the code is the same. A writing session takes the
registry's lock at its start, so two allocations cannot both see the same free prefix (see sessions).

SQLite runs in WAL mode with synchronous=FULL. Each session opens its file anew: a kept connection would go on reading,
and writing, a file that was put aside when a backup was restored over it. PostgreSQL's connections are kept, and tried
before each use: after a restart of the server the next session works again.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.registry import auditing, revisions
from cloudside.registry.doorbell import Doorbell
from cloudside.registry.sessions import RecordingSession, WritingSession, take_lock

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

#: The newest migration. Written out, because every command asks and Alembic takes 0.2 s to import; a test checks it.
SCHEMA = "0008"

#: How long a writer waits for another one before it gives up, in seconds.
LOCK_WAIT_S = 5.0
#: How long a PostgreSQL server may take to accept a connection, in seconds.
CONNECT_S = 5

#: A table or column that is missing, or not ours to use. SQLite says so with an OperationalError.
_NOT_FOR_US = frozenset({"42P01", "42703", "42501"})
#: PostgreSQL's channel for rings of the doorbell; the payload names the kind of daemon.
_CHANNEL = "kyoten_doorbell"

__all__ = ["CONNECT_S", "LOCK_WAIT_S", "SCHEMA", "Database", "Doorbell"]
# What sessions do by themselves is hung in by these two.
_HOOKS = (auditing, revisions)
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """One process's way to the registry. Safe to share between threads: each session is its own connection."""

    def __init__(
        self,
        url: str,
        *,
        actor: str = "kyoten",
        lock_wait_s: float = LOCK_WAIT_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``actor`` is who the audit log says made the changes: a person's name or a daemon's.

        Raises ConfigurationError: ``url`` is none, names another engine, or holds a password.
        """
        self._url = _checked(url)
        self._actor = actor
        self._clock = clock
        #: Whether daemons on other machines may work on it too.
        self.is_shared = self._url.get_backend_name() == "postgresql"
        self._sqlite_path = Path(self._url.database) if not self.is_shared and self._url.database else None
        if self.is_shared:
            self.engine = _postgresql(self._url, lock_wait_s)
        else:
            pool = NullPool if self._sqlite_path is not None else None
            arguments = {"timeout": lock_wait_s}
            self.engine = create_engine(self._url, connect_args=arguments, poolclass=pool, hide_parameters=True)
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    def require_current(self) -> None:
        """Raise ConfigurationError unless the registry exists and its schema is this program's."""
        if self._sqlite_path is not None and not self._sqlite_path.exists():
            raise ConfigurationError("registry.missing", path=str(self._sqlite_path))
        with self._translated(), self.engine.connect() as connection:
            stamped = inspect(connection).has_table("alembic_version")
            found = connection.scalar(text("SELECT version_num FROM alembic_version")) if stamped else None
        if found != SCHEMA:
            raise ConfigurationError("registry.schema", found=found or "-", wanted=SCHEMA)

    def migrate(self) -> None:
        """Bring the schema to this program's version; creates it (SQLite's directory with mode 0700).

        Raises UnavailableError: locked, or the directory cannot be written. ConfigurationError: not a registry.
        """
        from alembic import command

        if self._sqlite_path is not None:
            try:
                self._sqlite_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise UnavailableError(
                    "registry.unavailable", where=str(self._sqlite_path), reason=str(error.strerror)
                ) from None
        with self._translated(), self._writing_engine().begin() as connection:
            configuration = self._alembic()
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one consistent state and writes nothing. Objects stay usable after it.

        Raises UnavailableError: locked, or its file is not there. ConfigurationError: damaged.
        """
        self._require_file()
        engine = self.engine
        if self.is_shared:  # by default each of its statements would see another state
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._translated(), Session(engine, expire_on_commit=False) as session:
            yield session  # closing rolls back; an explicit rollback would expire every object the caller keeps

    @contextmanager
    def write(self, actor: str | None = None) -> Iterator[Session]:
        """A session that commits when the block ends, and leaves nothing behind when it raises. Raises as read does.

        ``actor``: who answers for the change, if not the one whom this process works for.
        """
        self._require_file()
        session = WritingSession(self._writing_engine(), actor=actor or self._actor, clock=self._clock)
        with self._translated(), session:
            session.connection()  # takes the write lock now, before the caller reads what it will decide on
            yield session
            session.commit()

    @contextmanager
    def record(self, actor: str | None = None) -> Iterator[Session]:
        """A session like write's for what was observed: on PostgreSQL it waits for no other writer.

        What it read may have changed when it writes, so nothing may be decided in it that others rely on. Inventory,
        policies and grants it refuses to change (TypeError, a bug of ours). Raises UnavailableError also when somebody
        else recorded the same thing for the first time at the same moment.
        """
        self._require_file()
        engine = self.engine if self.is_shared else self._writing_engine()
        session = RecordingSession(engine, actor=actor or self._actor, clock=self._clock)
        with self._translated(), session:
            try:
                session.connection()
                yield session
                session.commit()
            except IntegrityError as error:
                raise self._unavailable(error.orig) from error

    def notify(self, process: str) -> None:
        """Ring for a kind of daemon on every machine; PostgreSQL only. Raises UnavailableError."""
        with self._translated(), self.engine.begin() as connection:
            connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": _CHANNEL, "payload": process})

    def notifications(self, process: str, stopped: Event, *, look_up_s: float) -> Iterator[None]:
        """One item at the start and one for each ring for ``process``, until ``stopped``; PostgreSQL only.

        Holds a connection of its own meanwhile. Raises UnavailableError when that breaks.
        """
        with self._translated(), self.engine.connect() as pooled:
            driver: Any = pooled.connection.driver_connection
            pooled.detach()  # it stays in LISTEN and autocommit, so nobody else may get it
            try:
                driver.rollback()
                driver.autocommit = True
                driver.execute(f"LISTEN {_CHANNEL}")
                yield  # what rang before the connection stood was not heard
                while not stopped.is_set():
                    heard = [notice.payload for notice in driver.notifies(timeout=look_up_s, stop_after=1)]
                    if process in heard:
                        yield
            except self.engine.dialect.loaded_dbapi.Error as error:
                raise self._unavailable(error) from error
            finally:
                driver.close()

    def _require_file(self) -> None:
        # Connecting would make an empty one in its place.
        if self._sqlite_path is not None and not self._sqlite_path.exists():
            reason = os.strerror(errno.ENOENT)
            raise UnavailableError("registry.unavailable", where=str(self._sqlite_path), reason=reason)

    def _writing_engine(self) -> Engine:
        return self.engine.execution_options(kyoten_write=True)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def _alembic(self) -> "AlembicConfig":
        from alembic.config import Config as AlembicConfig

        configuration = AlembicConfig()
        configuration.set_main_option("script_location", str(_MIGRATIONS))
        return configuration

    @property
    def _where(self) -> str:
        if self._sqlite_path is not None:
            return str(self._sqlite_path)
        return str(self._url.host or self._url.query.get("host") or self._url.database or "-")

    def _unavailable(self, error: object) -> UnavailableError:
        reason = " ".join(str(error).split())  # libpq speaks in several lines
        if self.is_shared:
            return UnavailableError("registry.server-unavailable", where=self._where, reason=reason)
        return UnavailableError("registry.unavailable", where=self._where, reason=reason)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, PoolTimeoutError) as error:
            raise self._unavailable(getattr(error, "orig", error)) from error
        except DBAPIError as error:
            if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _NOT_FOR_US:
                raise self._unavailable(error.orig) from error
            if "not a database" in str(error.orig) or "malformed" in str(error.orig):
                raise ConfigurationError("registry.damaged", where=self._where, reason=str(error.orig)) from error
            raise


def _checked(url: str) -> URL:
    try:
        found = make_url(url)
    except ArgumentError:
        raise ConfigurationError("registry.bad-url") from None  # without its text: there may be a password in it
    if found.password is not None or "password" in found.query:
        raise ConfigurationError("registry.password-in-url")
    if found.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError("registry.bad-url")
    # "postgresql:" alone would be a driver that we do not have.
    return found.set(drivername="postgresql+psycopg") if found.drivername == "postgresql" else found


def _postgresql(url: URL, lock_wait_s: float) -> Engine:
    arguments = {
        "connect_timeout": CONNECT_S,
        "options": f"-c lock_timeout={round(lock_wait_s * 1000)}",
        # A server that is gone without a word is noticed within half a minute, not after the kernel's two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    engine = create_engine(
        url,
        connect_args=arguments,
        pool_pre_ping=True,
        pool_timeout=lock_wait_s,
        hide_parameters=True,  # a PIN or a password hash is among them, and errors are logged
    )
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    writing = connection.get_execution_options().get("kyoten_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("kyoten_write", False):
        take_lock(connection)
