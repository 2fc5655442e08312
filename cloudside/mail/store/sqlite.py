"""The queue's one writer: a thread with the only connection, committing jobs in groups.

Invariant: a job's future gets its result after the transaction that holds it is on the disk (WAL, synchronous=FULL),
never before. Jobs that arrive during a commit share the next one. The same connection checkpoints: SQLite 3.40 can
corrupt a WAL that two connections write and reset. A lock beside the file keeps a second process out; it ends with us.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from cloudside.errors import ConfigurationError, UnavailableError
from linux import locks

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

#: Most jobs in one transaction: bounds how long the first of a group waits for the last.
GROUP_MAX = 128
#: The WAL file is cut back to this after a checkpoint, in bytes.
WAL_LIMIT_BYTES = 32 * 1024 * 1024


class StorageFullError(UnavailableError):
    """The disk has no room; nothing of the job was kept and everything earlier is intact."""


class Writer:
    """Runs jobs one after another, each whole or not at all."""

    def __init__(self, path: Path, schema: str) -> None:
        """Open or create the database. Raises ConfigurationError: not openable, damaged, or another writer has it."""
        self._path = path
        self._lock = _locked(path)
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            self._connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")
            self._connection.executescript(schema)
        except sqlite3.Error as error:
            self._lock.close()
            raise ConfigurationError("mail.queue-unusable", path=str(path), reason=str(error)) from error
        self._jobs: queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mail-queue-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job[T]) -> Future[T]:
        """Queue a job. The future raises StorageFullError, UnavailableError (I/O), or what the job raised."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Finish what was submitted, then close."""
        self._jobs.put(None)
        self._thread.join()
        self._lock.close()

    def _work(self) -> None:
        open_for_work = True
        while open_for_work:
            group = []
            entry = self._jobs.get()
            while True:
                if entry is None:
                    open_for_work = False
                    break
                # Marks it as begun: a caller that goes away later cannot cancel it, and setting its result cannot fail.
                if entry[1].set_running_or_notify_cancel():
                    group.append(entry)
                if len(group) == GROUP_MAX:
                    break
                try:
                    entry = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._commit(group)
        self._connection.close()

    def _commit(self, group: list[tuple[Job[Any], Future[Any]]]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        waiting = [future for _, future in group]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job, future in group:
                self._connection.execute("SAVEPOINT job")
                try:
                    result = job(self._connection)
                except Exception as error:
                    if not self._connection.in_transaction:
                        raise  # SQLite gave the whole transaction up (disk full, I/O error)
                    self._connection.execute("ROLLBACK TO job")
                    waiting.remove(future)
                    future.set_exception(self._translated(error))
                else:
                    done.append((future, result))
                self._connection.execute("RELEASE job")
            self._connection.execute("COMMIT")
        except Exception as error:
            # One that fails is tried again by the next group's: this thread must live, or every client waits for ever.
            with suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            for future in waiting:
                future.set_exception(self._translated(error))
            return
        for future, result in done:
            future.set_result(result)

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.OperationalError | sqlite3.DatabaseError):
            return error
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StorageFullError("mail.disk-full", path=str(self._path.parent))
        if isinstance(error, sqlite3.IntegrityError):
            return error
        return UnavailableError("mail.queue-failed", path=str(self._path), reason=str(error))


def _locked(path: Path) -> TextIO:
    """The lock of the database at ``path``, held until it is closed or the process ends."""
    try:
        lock = locks.take(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        raise ConfigurationError("mail.queue-unusable", path=str(path), reason=error.strerror or "") from error
    if lock is None:
        raise ConfigurationError("mail.queue-in-use", path=str(path))
    return lock
