"""The engine of several relays: threads with a connection each, committing jobs in groups.

The same promise as the embedded engine's: a job's future gets its result after its transaction is on the server's disk
(synchronous_commit). Jobs of different threads run at once; what must not be taken twice is locked (SKIP LOCKED). When
a group fails, each of its jobs is run again by itself, so that one bad job spoils nobody else's.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.store import schema
from cloudside.mail.store.engine import Haste, Job, Session, T
from cloudside.mail.store.leases import LEASE_S, Lease, living
from cloudside.mail.store.links import SCHEMA, Link, arguments

#: Connections that write. Two share the processor with a commit's wait; more only meet on the rows of counts.
WRITERS = 3
#: Most jobs in one transaction: bounds how long the first of a group waits for the last.
GROUP_MAX = 64

_Entry = tuple[tuple[str, ...], Job[Any], "Future[Any]"]


class PostgresqlEngine:
    """Runs jobs on a server. ``relay``: our name among the relays; None: no relay, only somebody who looks after it."""

    bodies_in_files = False

    def __init__(self, url: str, *, relay: str | None, lease_s: float = LEASE_S) -> None:
        """Connect, and bring the tables to the newest version.

        Raises ConfigurationError: no such URL, a newer version's tables, another relay of that name, server away.
        """
        given, where = arguments(url)
        self.relay = relay or ""

        def link() -> Link:
            return Link(given, where)

        first = link()
        try:
            first.transact(_upgrade)
            self._lease = Lease(link(), relay, lease_s=lease_s) if relay is not None else None
        except UnavailableError as error:
            reason = str(error.params.get("reason", error.key))
            raise ConfigurationError("mail.queue-unusable", path=where, reason=reason) from error
        finally:
            first.close()
        self._jobs: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(link(),), name=f"mail-queue-writer-{number}", daemon=True)
            for number in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()
        self._reading = link()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="mail-queue-reader")

    def submit(self, job: Job[T], order: tuple[str, ...] = (), *, haste: Haste = Haste.NOW) -> Future[T]:
        """Queue a job. The future raises StorageFullError, UnavailableError (server), or what the job raised."""
        future: Future[T] = Future()
        self._jobs.put((order, job, future))
        return future

    def read(self, job: Job[T]) -> Future[T]:
        """Run a job on the connection that reads."""
        return self._reader.submit(self._reading.transact, job, read_only=True)

    def others(self, session: Session) -> Sequence[str]:
        """Names of the other relays that live."""
        return living(session, self.relay)

    def close(self) -> None:
        """Finish what was submitted, then close."""
        self._reader.shutdown()
        self._reading.close()
        self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        if self._lease is not None:
            self._lease.close()

    def _work(self, link: Link) -> None:
        while group := self._next_group():
            # Everybody takes the rows of counts in the same order, so that two groups do not wait for each other.
            group.sort(key=lambda entry: entry[0])
            self._run(link, group)
        link.close()

    def _next_group(self) -> list[_Entry]:
        """What waits, at most GROUP_MAX; nothing: it is over."""
        group: list[_Entry] = []
        entry = self._jobs.get()
        while True:
            if entry is None:
                self._jobs.put(None)  # for the other threads, and for us when this group is done
                return group
            # Marks it as begun: a caller that goes away later cannot cancel it, and setting its result cannot fail.
            if entry[2].set_running_or_notify_cancel():
                group.append(entry)
            if len(group) == GROUP_MAX:
                return group
            try:
                entry = self._jobs.get_nowait()
            except queue.Empty:
                if group:
                    return group
                entry = self._jobs.get()

    def _run(self, link: Link, group: list[_Entry]) -> None:
        try:
            results = link.transact(lambda session: [job(session) for _, job, _ in group])
        except Exception as error:
            if len(group) == 1 or not link.is_up:
                for _, _, future in group:
                    future.set_exception(error)
                return
            for entry in group:
                self._run(link, [entry])
            return
        for (_, _, future), result in zip(group, results, strict=True):
            future.set_result(result)


def _upgrade(session: Session) -> None:
    """Make the tables, or bring older ones to the newest version; one relay at a time."""
    session.execute("SELECT pg_advisory_xact_lock(hashtext('kyoten mail schema'))")
    session.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    session.execute("CREATE TABLE IF NOT EXISTS version (number INTEGER NOT NULL)")
    row = session.execute("SELECT number FROM version").fetchone()
    version = 0 if row is None else int(row[0])
    if version > schema.VERSION:
        raise ConfigurationError("mail.queue-newer", found=version, known=schema.VERSION)
    if version == schema.VERSION:
        return
    if version:
        for statement in schema.second(schema.POSTGRESQL):
            session.execute(statement)
        session.execute("UPDATE version SET number = ?", (schema.VERSION,))
        return
    for statement in schema.tables(schema.POSTGRESQL):
        session.execute(statement)
    session.execute("CREATE TABLE relays (name TEXT PRIMARY KEY, until DOUBLE PRECISION NOT NULL)")
    session.execute("INSERT INTO version (number) VALUES (?)", (schema.VERSION,))
