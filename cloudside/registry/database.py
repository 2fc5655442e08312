"""The registry's connection: sessions for reading and for writing, and the doorbell.

SQLite is the embedded default, PostgreSQL the production engine; the code is the same. SQLite runs in WAL mode with
synchronous=FULL, and a writing session takes the write lock at its start, so two allocations cannot both see the same
free prefix. Each session opens SQLite's file anew: a kept connection would go on reading, and writing, a file that
was put aside when a backup was restored over it.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.registry.revisions import WritingSession

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

#: The newest migration. Written out, because every command asks and Alembic takes 0.2 s to import; a test checks it.
SCHEMA = "0004"

#: How long a writer waits for another one before it gives up, in seconds.
LOCK_WAIT_S = 5.0

_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """One process's way to the registry. Safe to share between threads: each session is its own connection."""

    def __init__(self, url: str, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._url: URL = make_url(url)
        sqlite = self._url.get_backend_name() == "sqlite"
        self._sqlite_path = Path(self._url.database) if sqlite and self._url.database else None
        arguments: dict[str, Any] = {"timeout": lock_wait_s} if sqlite else {}
        pool = NullPool if self._sqlite_path is not None else None
        self.engine = create_engine(self._url, connect_args=arguments, poolclass=pool)
        if sqlite:
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
        with self._translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session  # closing rolls back; an explicit rollback would expire every object the caller keeps

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that commits when the block ends, and leaves nothing behind when it raises. Raises as read does."""
        self._require_file()
        with self._translated(), WritingSession(self._writing_engine(), expire_on_commit=False) as session:
            session.connection()  # takes the write lock now, before the caller reads what it will decide on
            yield session
            session.commit()

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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        where = self._url.database if self._url.get_backend_name() == "sqlite" else self._url.host
        try:
            yield
        except OperationalError as error:
            raise UnavailableError("registry.unavailable", where=where or "-", reason=str(error.orig)) from error
        except DBAPIError as error:
            if "not a database" in str(error.orig) or "malformed" in str(error.orig):
                raise ConfigurationError("registry.damaged", where=where or "-", reason=str(error.orig)) from error
            raise


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


class Doorbell:
    """Tells daemons on this node that the registry changed. A lost ring costs one resync interval, not correctness."""

    def __init__(self, runtime_directory: Path, process: str) -> None:
        self.path = runtime_directory / f"{process}.doorbell"

    def ring(self) -> None:
        """Wake the daemon if it listens; silence is fine."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(b"\0", str(self.path))
            except OSError:
                return  # nobody listens, or its queue is full of rings already

    def listen(self) -> socket.socket:
        """A datagram socket that becomes readable at each ring. Replaces one left by a dead process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(str(self.path))
        return receiver
