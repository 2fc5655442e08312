"""The embedded engine: a thread with the only connection that writes, committing jobs in groups, and one that reads.

Invariant: a job's future gets its result after the transaction that holds it is on the disk (WAL, synchronous=FULL),
never before, unless it asked for less (see Haste). Jobs that arrive during a commit share the next one. The same
connection checkpoints: SQLite 3.40 can corrupt a WAL that two connections write and reset; the reading one is opened
read-only and never checkpoints. A lock beside the file keeps a second process out; it ends with us.
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.store.engine import Haste, Job, Session, StorageFullError, T
from linux import locks

__all__ = ["SqliteEngine", "StorageFullError"]

#: Most jobs in one transaction: bounds how long the first of a group waits for the last.
GROUP_MAX = 128
#: The WAL file is cut back to this after a checkpoint, in bytes.
WAL_LIMIT_BYTES = 32 * 1024 * 1024
#: A checkpoint copies the log into the file and syncs it, which everybody waits for: seldom, and 1,000 pages by default
#: are 100 mails. In pages of 4 kB.
CHECKPOINT_PAGES = 2000
#: Memory for pages of the file, in kB, for each of the two connections.
CACHE_KB = 32 * 1024
#: How long we wait for another process to let go of the queue: `kyoten mail` without a relay has it for a moment.
LOCK_WAIT_S = 3.0


#: The longest that a job waits to share another one's commit: a mail's outcome for the next mail's acceptance.
SHARED_S = 0.008

_Entry = tuple[Job[Any], Future[Any], Haste]


class SqliteEngine:
    """Runs jobs one after another, each whole or not at all."""

    bodies_in_files = True

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None], *, relay: str = "") -> None:
        """Open or create the database. Raises ConfigurationError: not openable, damaged, or another process has it."""
        self.relay = relay
        self._path = path
        self._lock = _locked(path)
        opened: list[sqlite3.Connection] = []
        try:
            opened.append(_connected(path, read_only=False))
            _configure(opened[0])
            prepare(opened[0])
            opened.append(_connected(path, read_only=True))
        except BaseException as error:
            for connection in opened:
                connection.close()
            self._lock.close()
            if isinstance(error, sqlite3.Error):
                raise ConfigurationError("mail.queue-unusable", path=str(path), reason=str(error)) from error
            raise
        self._connection, self._reading = opened
        self._jobs: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._syncs = True
        self._thread = threading.Thread(target=self._work, name="mail-queue-writer", daemon=True)
        self._thread.start()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="mail-queue-reader")

    def submit(self, job: Job[T], order: tuple[str, ...] = (), *, haste: Haste = Haste.NOW) -> Future[T]:
        """Queue a job. The future raises StorageFullError, UnavailableError (I/O), or what the job raised."""
        future: Future[T] = Future()
        self._jobs.put((job, future, haste))
        return future

    def read(self, job: Job[T]) -> Future[T]:
        """Run a job on the connection that reads."""
        return self._reader.submit(self._read, job)

    def others(self, session: Session) -> Sequence[str]:
        """There are none."""
        return ()

    def close(self) -> None:
        """Finish what was submitted, then close."""
        self._reader.shutdown()
        self._reading.close()
        self._jobs.put(None)
        self._thread.join()
        self._lock.close()

    def _read(self, job: Job[T]) -> T:
        try:
            self._reading.execute("BEGIN")
            try:
                return job(self._reading)
            finally:
                self._reading.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _work(self) -> None:
        open_for_work = True
        patient: list[_Entry] = []
        patient_until = 0.0
        while open_for_work or patient:
            group, open_for_work = self._next_group(patient_until if patient else None)
            hasty = [entry for entry in group if entry[2] is not Haste.SHARED]
            if len(hasty) < len(group):
                if not patient:
                    patient_until = time.monotonic() + SHARED_S
                patient += [entry for entry in group if entry[2] is Haste.SHARED]
            due = not open_for_work or len(patient) >= GROUP_MAX or time.monotonic() >= patient_until
            if patient and (due or any(entry[2] is Haste.NOW for entry in hasty)):
                hasty = [*patient, *hasty]
                patient = []
            if hasty:
                synced = any(entry[2] is not Haste.UNSYNCED for entry in hasty)
                self._commit([(job, future) for job, future, _ in hasty], synced=synced)
        self._connection.close()

    def _next_group(self, until: float | None) -> tuple[list[_Entry], bool]:
        """What is submitted, as soon as something is, and whether more may come. ``until``: wait no longer."""
        group: list[_Entry] = []
        try:
            entry = self._jobs.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            while entry is not None:
                # Marks it as begun: a caller that goes away later cannot cancel it, and setting its result cannot fail.
                if entry[1].set_running_or_notify_cancel():
                    group.append(entry)
                if len(group) == GROUP_MAX:
                    return group, True
                entry = self._jobs.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _sync(self, *, wanted: bool) -> None:
        """Whether the next commit waits for the disk. One that does takes along what was written before it."""
        if wanted != self._syncs:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
            self._syncs = wanted

    def _commit(self, group: list[tuple[Job[Any], Future[Any]]], *, synced: bool) -> None:
        done: list[tuple[Future[Any], Any]] = []
        waiting = [future for _, future in group]
        try:
            self._sync(wanted=synced)
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
        if not isinstance(error, sqlite3.Error):
            return error
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StorageFullError("mail.disk-full", path=str(self._path.parent))
        return UnavailableError("mail.queue-failed", path=str(self._path), reason=str(error))


def _connected(path: Path, *, read_only: bool) -> sqlite3.Connection:
    place = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(
        place, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=5
    )
    connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")


def _locked(path: Path) -> TextIO:
    """The lock of the database at ``path``, held until it is closed or the process ends."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            lock = locks.take(path.with_name(f"{path.name}.lock"))
        except OSError as error:
            raise ConfigurationError("mail.queue-unusable", path=str(path), reason=error.strerror or "") from error
        if lock is not None:
            return lock
        if time.monotonic() > deadline:
            raise ConfigurationError("mail.queue-in-use", path=str(path))
        time.sleep(0.05)
