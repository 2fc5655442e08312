"""Everything that is done to the durable queue, each operation one transaction, the same on both engines.

A recipient is in exactly one state. A failure and the reports about it are written together, so a crash can neither
lose a report nor send it twice. Message bodies go when their last recipient is finished; headers and what happened stay
for late bounces until the retention ends.
"""

import asyncio
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from cloudside.config import Config
from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.model import (
    Attempt,
    Entry,
    NewMessage,
    Original,
    Receipt,
    Scope,
    Selection,
    Spilled,
    State,
    Story,
    Suppressing,
    Traffic,
)
from cloudside.mail.store import accepting, looking, moving, purging
from cloudside.mail.store.accepting import DAY_HOURS, Refusal, hour_of
from cloudside.mail.store.bodies import IN_DATABASE_MAX_BYTES, Bodies, whole
from cloudside.mail.store.engine import Engine, Haste, Job, StorageFullError
from cloudside.mail.store.journal import leftover, taking
from cloudside.mail.store.journal.records import Record
from cloudside.mail.store.sqlite import SqliteEngine
from cloudside.mail.store.upgrading import upgrade

__all__ = ["DAY_HOURS", "FILE_NAME", "Queue", "hour_of", "open_queue"]

FILE_NAME = "queue.sqlite"

#: Space that stays free so that deliveries, bounces and reports can still be recorded when new mail gets 452.
RESERVE_BYTES = 64 * 1024 * 1024
#: A message is in the log and in the database at once, and the checkpoint may lag.
SPACE_FACTOR = 3
#: Threads that write, sync and remove bodies, so that small mail need not wait for it.
_FILE_THREADS = 4

_T = TypeVar("_T")


class Queue:
    """The durable queue. Use from one event loop; the work happens in other threads."""

    def __init__(self, directory: Path, *, engine: Engine | None = None, reserve_bytes: int = RESERVE_BYTES) -> None:
        """Open or create it: without ``engine``, a file in ``directory``.

        Mail in journals of processes that are dead is taken over. Raises ConfigurationError when the directory or the
        database cannot be used, or one of those processes lives.
        """
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._bodies = Bodies(directory)
        try:
            if engine is None or engine.relay:  # whoever only looks after a shared one needs no place here
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._bodies.make()
        except OSError as error:
            raise ConfigurationError("mail.queue-unusable", path=str(directory), reason=error.strerror or "") from error
        self._engine = engine or SqliteEngine(directory / FILE_NAME, upgrade)
        self._claiming = asyncio.Lock()
        #: What was claimed and is not settled, and whether there may be claims that we do not know of.
        self._in_hand: set[tuple[int, int]] = set()
        self._strays = False
        self._files = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix="mail-bodies")
        if self._engine.bodies_in_files:
            try:
                leftover.take_over(self._bodies.journals, self._engine)
            except BaseException:
                self.close()
                raise
            self._bodies.sweep(self._engine.read(purging.ids_in_files).result())

    @property
    def incoming(self) -> Path:
        """Where mail that is being received may be written (see Spilled). Emptied at start."""
        return self._bodies.incoming

    def new_journal(self) -> Path | None:
        """Where a process that takes mail may have its journal; None: the queue has to have mail before its 250."""
        if not self._engine.bodies_in_files:
            return None
        return self._bodies.journals / f"{secrets.token_hex(8)}{leftover.SUFFIX}"

    async def take_over(self, name: str, records: Sequence[Record]) -> list[Receipt]:
        """Write consecutive mails of the journal of that name, all or none. Raises UnavailableError, ValueError."""
        return await self._run(lambda session: taking.take(session, name, records))

    def close(self) -> None:
        """Finish what was begun, then close."""
        self._engine.close()
        self._files.shutdown()

    def require_space(self, size_bytes: int) -> None:
        """Raise StorageFullError unless a message of this size fits and the reserve stays free."""
        if shutil.disk_usage(self._directory).free < self._reserve_bytes + SPACE_FACTOR * size_bytes:
            raise StorageFullError("mail.disk-full", path=str(self._directory))

    async def accept(self, new: NewMessage) -> Receipt:
        """Make a message durable: it now survives a power cut.

        It is counted for its tenant, site and device. Raises LimitExceededError, StorageFullError, UnavailableError;
        nothing is kept then.
        """
        size = new.body.size if isinstance(new.body, Spilled) else len(new.body)
        if size <= IN_DATABASE_MAX_BYTES and isinstance(new.body, bytes):
            return _taken(await self._run(lambda session: accepting.insert(session, new), accepting.order_of(new)))
        return await self._accept_large(new)

    async def _accept_large(self, new: NewMessage) -> Receipt:
        path = self._bodies.path(new.id)
        spilled = new.body.path if isinstance(new.body, Spilled) else path
        if self._engine.bodies_in_files:
            await self._in_thread(partial(self._bodies.keep, new.id, new.body))
            stored = replace(new, body=Spilled(path, new.size - len(new.head) - 2))
        else:
            stored = replace(new, body=await self._in_thread(partial(whole, new.body)))
        # Unless it is known that no message names it, the file stays; an orphan is swept at the next start.
        needed = True
        try:
            found = await self._run(lambda session: accepting.insert(session, stored), accepting.order_of(new))
            needed = isinstance(found, Receipt) and found.taken and self._engine.bodies_in_files
            return _taken(found)
        except StorageFullError:
            needed = False
            raise
        finally:
            if not needed:
                self._files.submit(self._bodies.forget, path, spilled)

    async def recover(self, now: float) -> int:
        """Put back what was being sent when the last process ended; its number.

        A recipient that this happens to more than three times in a row is held: it may be what ends us.
        """
        engine = self._engine
        return await self._run(lambda session: moving.recover(session, now, tuple(engine.others(session))))

    async def claim(self, now: float, limit: int, *, urgent_only: bool = False) -> list[Attempt]:
        """Take at most ``limit`` due recipients for delivery: notices, then urgent mail, then the longest due.

        ``urgent_only``: notices and urgent mail.
        """
        relay = self._engine.relay
        async with self._claiming:
            in_hand = frozenset(self._in_hand)
            if self._strays:
                await self._run(lambda session: moving.restore(session, now, relay, in_hand))
            # If the answer is lost, what was claimed would be nobody's until the next start.
            self._strays = True
            # Not synced: without its claim a recipient waits for delivery again, as after every cut.
            found = await self._run(
                lambda session: moving.claim(session, now, limit, relay, urgent_only=urgent_only), haste=Haste.UNSYNCED
            )
            self._in_hand.update((attempt.original.id, attempt.index) for attempt, _ in found)
            self._strays = False
        return [
            replace(attempt, body=self._bodies.path(attempt.original.id)) if in_file else attempt
            for attempt, in_file in found
        ]

    async def next_due(self) -> float | None:
        """When the next recipient falls due; None when none waits."""
        return await self._read(looking.next_due)

    async def delivered(self, attempt: Attempt, now: float, reply: str, remote_id: str = "") -> None:
        """The smarthost took responsibility. ``remote_id``: what it calls the mail."""
        moved = await self._run(
            lambda session: moving.delivered(session, attempt, now, reply, remote_id), haste=Haste.SHARED
        )
        self._done(attempt.original.id, attempt.index, moved)

    async def postpone(self, attempt: Attempt, now: float, *, until: float, reply: str, counted: bool) -> None:
        """Try again at ``until``. ``counted``: it was the recipient's failure and uses up one of its tries."""
        relay = self._engine.relay
        await self._run(
            lambda session: moving.postpone(session, attempt, now, relay, until=until, reply=reply, counted=counted),
            haste=Haste.SHARED,
        )
        self._in_hand.discard((attempt.original.id, attempt.index))

    async def fail(
        self,
        message_id: int,
        index: int,
        state: State,
        now: float,
        reply: str,
        reports: tuple[NewMessage, ...],
        *,
        permanent: bool,
        suppress: str = "",
        feedback: str = "",
    ) -> bool:
        """Finish a recipient as bounced or expired and queue the reports about it, all or nothing.

        ``suppress``: the cause ("bounce" or "complaint") that its address is to be suppressed for; empty: it is not.
        ``feedback``: the id of the notice that said so. False: it was finished so before (the same bounce twice), or
        is unknown; no report is queued.
        """
        moved = await self._run(
            lambda session: moving.fail(
                *(session, message_id, index, state, now, reply, reports),
                permanent=permanent,
                suppress=suppress,
                feedback=feedback,
            )
        )
        self._done(message_id, index, moved)
        return moved.changed

    async def complained(
        self,
        message_id: int,
        index: int,
        now: float,
        detail: str,
        reports: tuple[NewMessage, ...],
        *,
        feedback: str,
    ) -> bool:
        """The recipient calls the mail unwanted. It stays delivered; its address is to be suppressed. False: known."""
        return await self._run(
            lambda session: moving.complained(session, message_id, index, now, detail, reports, feedback=feedback)
        )

    async def note(
        self, message_id: int, index: int, now: float, event: str, detail: str, *, feedback: str = ""
    ) -> bool:
        """Add to the life story of a message without changing its state. False: this feedback was noted before."""
        return await self._run(lambda session: moving.note(session, message_id, index, now, event, detail, feedback))

    async def original(self, message_id: int, index: int) -> tuple[Original, str] | None:
        """What is kept of a message, and the address of its recipient ``index``; None: unknown or past retention."""
        return await self._read(lambda session: looking.original(session, message_id, index))

    async def by_remote_id(self, remote_id: str) -> tuple[tuple[int, int], ...]:
        """(message id, index) of what the smarthost called so when it took it."""
        return await self._read(lambda session: looking.by_remote_id(session, remote_id))

    async def hold(self, which: Selection, now: float, reason: str) -> int:
        """Have queued recipients wait until they are released; their number. What is being sent now goes on."""
        return await self._change(which, frozenset({State.QUEUED}), State.HELD, now, "held", reason)

    async def release(self, which: Selection, now: float) -> int:
        """Have held recipients delivered at once; their number."""
        return await self._change(which, frozenset({State.HELD}), State.QUEUED, now, "released", "")

    async def retry(self, which: Selection, now: float) -> int:
        """Have queued recipients tried now and not when their turn would come; their number."""
        return await self._change(which, frozenset({State.QUEUED}), State.QUEUED, now, "retried", None)

    async def drop(self, which: Selection, now: float, reason: str) -> int:
        """End queued and held recipients; nobody is told. Their number."""
        return await self._change(which, frozenset({State.QUEUED, State.HELD}), State.DROPPED, now, "dropped", reason)

    async def entries(self, which: Selection, limit: int) -> list[Entry]:
        """Recipients, the oldest message first."""
        return await self._read(lambda session: looking.entries(session, which, limit))

    async def stories(self, which: Selection, limit: int) -> list[Story]:
        """Whole messages of which a recipient is selected, the newest first."""
        return await self._read(lambda session: looking.stories(session, which, limit))

    async def states(self) -> dict[str, int]:
        """Recipients by state, of all messages within the retention."""
        return await self._read(looking.states)

    async def waiting(self) -> dict[str, int]:
        """Recipients that are not finished, by state. Costs little, however many are remembered."""
        return await self._read(looking.waiting)

    async def parked(self) -> dict[str, list[int]]:
        """Ids of messages that are held because they were being sent when several relays ended, by origin."""
        return await self._read(looking.parked)

    async def counts(self, scope: Scope, since_hour: int, until_hour: int) -> dict[str, int]:
        """Recipients by name, in the hours (see hour_of) from ``since_hour`` until before ``until_hour``."""
        return await self._read(lambda session: looking.counts(session, scope, since_hour, until_hour))

    async def hours(self, scope: Scope, names: Iterable[str], since_hour: int) -> dict[str, dict[int, int]]:
        """Recipients by name and hour; hours without any are left out."""
        wanted = tuple(names)
        return await self._read(lambda session: looking.hours(session, scope, wanted, since_hour))

    async def outcomes(self, origin: str, since: float) -> dict[str, int]:
        """Recipients by state of what an origin sent since then; "complained" instead of delivered where it is so."""
        return await self._read(lambda session: looking.outcomes(session, origin, since))

    async def domains(self, origin: str, since: float, until: float) -> dict[str, int]:
        """Recipients of an origin by their domain, in lower case."""
        return await self._read(lambda session: looking.domains(session, origin, since, until))

    async def sources(self, origin: str, since: float, until: float) -> dict[str, int]:
        """Recipients of an origin by the address that the mail came from."""
        return await self._read(lambda session: looking.sources(session, origin, since, until))

    async def last_mail(self) -> dict[str, float]:
        """When the newest mail of each origin was accepted; to the clock hour when that mail is forgotten already."""
        return await self._read(looking.last_mail)

    async def traffic(self, scope: Scope, name: str, since: float) -> Traffic:
        """The most frequent recipients and sources, and subjects, of what was sent since then."""
        return await self._read(lambda session: looking.traffic(session, scope, name, since))

    async def suppressing(self) -> list[Suppressing]:
        """Addresses to be suppressed that nobody took over yet (see suppressed)."""
        return await self._read(looking.suppressing)

    async def suppressed(self, ids: Iterable[int]) -> None:
        """These of ``suppressing`` are in the registry now."""
        rows = [(number,) for number in ids]
        if rows:
            await self._run(lambda session: session.executemany("DELETE FROM suppressing WHERE seq = ?", rows).rowcount)

    async def purge(self, before: float, counts_before: float) -> int:
        """Forget messages accepted before then whose recipients are all finished, and older counts; messages forgotten.

        In small transactions: everything else goes on meanwhile.
        """
        forgotten = 0
        while batch := await self._read(lambda session: purging.finished(session, before)):
            await self._run(partial(purging.forget, batch=batch))
            forgotten += len(batch)
        while old := await self._read(lambda session: purging.old_counts(session, hour_of(counts_before))):
            await self._run(partial(purging.forget_counts, batch=old))
        if not self._engine.bodies_in_files:
            await self._run(purging.forget_left_bodies)
        return forgotten

    async def _change(
        self, which: Selection, sources: frozenset[State], target: State, now: float, event: str, reason: str | None
    ) -> int:
        changed, files = await self._run(
            lambda session: moving.change(session, which, sources, target, now, event, reason)
        )
        self._remove(files)
        return changed

    def _done(self, message_id: int, index: int, moved: moving.Moved) -> None:
        self._in_hand.discard((message_id, index))
        self._remove(moved.files)

    def _remove(self, message_ids: Sequence[int]) -> None:
        # After the commit that no longer names them: what a crash leaves is swept at the next start.
        for message_id in message_ids:
            self._files.submit(self._bodies.forget, self._bodies.path(message_id))

    async def _run(self, job: Job[_T], order: tuple[str, ...] = (), *, haste: Haste = Haste.NOW) -> _T:
        if haste is Haste.NOW:
            return await asyncio.wrap_future(self._engine.submit(job, order))
        return await asyncio.wrap_future(self._engine.submit(job, order, haste=haste))

    async def _read(self, job: Job[_T]) -> _T:
        return await asyncio.wrap_future(self._engine.read(job))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.wrap_future(self._files.submit(work))
        except OSError as error:
            if error.errno in (28, 122):  # ENOSPC, EDQUOT
                raise StorageFullError("mail.disk-full", path=str(self._directory)) from error
            raise UnavailableError(
                "mail.queue-failed", path=str(self._directory), reason=error.strerror or ""
            ) from error


def open_queue(config: Config) -> Queue:
    """The queue that the configuration names. Raises ConfigurationError."""
    engine = None
    if config.relay.queue_url:
        from cloudside.mail.store.postgresql import PostgresqlEngine

        engine = PostgresqlEngine(config.relay.queue_url, relay=config.relay.name)
    return Queue(config.queue_directory, engine=engine)


def _taken(found: Receipt | Refusal) -> Receipt:
    if isinstance(found, Refusal):
        raise found.error()
    return found
