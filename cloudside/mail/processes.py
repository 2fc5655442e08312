"""Listeners in processes of their own, behind the same ports: Python runs on one core a process.

The first process owns the queue, delivers and watches. The others are made from it by fork before it has threads or a
loop; each binds the same addresses (SO_REUSEPORT, the kernel spreads connections), knows the registry by itself, and
hands finished mails to the first one over a socket pair. A 250 still comes only after the queue's commit. A child takes
no mail before the first process has looked through the queue's directory: what it found there would go. They live and
die together: a process whose other end is gone ends, and whoever supervises the relay starts it anew.
"""

import asyncio
import gc
import os
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvloop

from cloudside.errors import KyotenError, UnavailableError
from cloudside.mail.intake.handlers import AcceptedLog
from cloudside.mail.links import Link, attach
from cloudside.mail.metrics import Metrics
from cloudside.mail.model import Action, Kind, NewMessage, Receipt
from cloudside.mail.store.engine import StorageFullError
from cloudside.mail.store.journal.adoption import Adoption
from cloudside.mail.store.journal.ahead import Ahead
from cloudside.mail.store.journal.records import Record
from cloudside.mail.store.queue import RESERVE_BYTES, SPACE_FACTOR, Queue
from cloudside.mail.watch.sightings import Sight, Sightings

log = structlog.get_logger(__name__)

#: How often what was counted and seen goes to the first process.
TELL_EVERY_S = 0.2
#: How long a child has to end after it was told to, beyond the time for draining.
END_S = 5.0


#: Method, arguments, named arguments.
_Report = tuple[str, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Child:
    """A process that listens, and our end of the line to it."""

    pid: int
    end: socket.socket


def packed(new: NewMessage) -> tuple[object, ...]:
    """A message as a plain tuple: as an object it takes three times as long to send.

    Limits that only notify are left out: the queue does not look at them.
    """
    limits = tuple(limit for limit in new.limits if limit.action is not Action.NOTIFY)
    return (
        *(new.id, new.kind.value, new.origin, new.source, new.sender, new.recipients, new.subject, new.head, new.body),
        *(new.accepted_at, new.automatic, new.once, new.tenant, new.device, new.urgent, new.held, limits),
    )


def unpacked(fields: tuple[Any, ...]) -> NewMessage:
    """What ``packed`` made a tuple of."""
    message_id, kind, *rest = fields
    return NewMessage(message_id, Kind(kind), *rest)


class QueueThere:
    """The queue in the first process, as listeners use it."""

    def __init__(self, link: Link, directory: Path) -> None:
        self._link = link
        self._directory = directory

    def require_space(self, size_bytes: int) -> None:
        """Raise StorageFullError unless a message of this size fits and the reserve stays free."""
        if shutil.disk_usage(self._directory).free < RESERVE_BYTES + SPACE_FACTOR * size_bytes:
            raise StorageFullError("mail.disk-full", path=str(self._directory))

    async def accept(self, new: NewMessage) -> Receipt:
        """See Queue.accept. Raises the same, and UnavailableError when the first process is gone."""
        return Receipt(*await self._link.call("accept", packed(new)))


class Reports:
    """What a child counted and saw, gathered and told to the first process a few times a second."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._gathered: list[_Report] = []
        #: Adds to what was gathered when its time has come.
        self.summed: Callable[[], list[_Report]] = list
        self._due = False

    def soon(self) -> None:
        """There is something to tell."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(TELL_EVERY_S, self.flush)

    def add(self, name: str, *arguments: object) -> None:
        """Tell this soon."""
        self._gathered.append((name, arguments, {}))
        self.soon()

    def flush(self) -> None:
        """Tell it now."""
        self._due = False
        told = [*self._gathered, *self.summed()]
        self._gathered.clear()
        if told:
            self._link.tell("reports", told)


class MetricsThere(Metrics):
    """Counts in the first process, and adds up here until it is told."""

    def __init__(self, reports: Reports) -> None:
        super().__init__()
        self._reports = reports
        self._times: Counter[tuple[str, str]] = Counter()
        self._mails: dict[str, list[tuple[int, int, float]]] = {}
        reports.summed = self._summed

    def accepted(self, listener: str, *, recipients: int, size: int, seconds: float) -> None:
        self._mails.setdefault(listener, []).append((recipients, size, seconds))
        self._reports.soon()

    def refused(self, reason: str, times: int = 1) -> None:
        self._add("refused", reason, times)

    def login(self, result: str, times: int = 1) -> None:
        self._add("login", result, times)

    def connected(self, listener: str, change: int) -> None:
        self._add("connected", listener, change)

    def _add(self, name: str, word: str, times: int) -> None:
        self._times[name, word] += times
        self._reports.soon()

    def _summed(self) -> list[_Report]:
        told: list[_Report] = [(name, (word, times), {}) for (name, word), times in self._times.items() if times]
        for listener, mails in self._mails.items():
            recipients, sizes, seconds = zip(*mails, strict=True)
            sums = {"mails": len(mails), "recipients": sum(recipients), "size": sum(sizes), "seconds": seconds}
            told.append(("accepted", (listener,), sums))
        self._times.clear()
        self._mails.clear()
        return told


class SightingsThere(Sightings):
    """Sees for the first process."""

    def __init__(self, reports: Reports) -> None:
        super().__init__()
        self._reports = reports

    def saw(self, sight: Sight, subject: str, source: str, at: float, detail: str = "") -> None:
        self._reports.add("saw", sight, subject, source, at, detail)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a child's listeners are given instead of the first process's own parts."""

    queue: Ahead
    metrics: Metrics
    sightings: Sightings
    stop: asyncio.Event


Work = Callable[[Surroundings], Awaitable[None]]


def fork(count: int, directory: Path, work: Work) -> list[Child]:
    """Make ``count`` children that do ``work`` until they are told to stop. Only before a thread or loop is made."""
    gc.collect()
    gc.freeze()  # pages that nobody writes to stay shared
    sys.stdout.flush()
    sys.stderr.flush()
    children: list[Child] = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for child in children:
                child.end.close()
            _be_a_child(theirs, directory, work)
        theirs.close()
        children.append(Child(pid, ours))
    return children


def _be_a_child(end: socket.socket, directory: Path, work: Work) -> None:
    """Work, then end the process; never returns."""
    status = 1
    try:
        # The first process is told by signal and tells us, so that both a terminal's Ctrl-C and systemd are served.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        from cloudside.logging import configure

        configure(for_good=True)
        uvloop.run(listen(end, directory, work))
        status = 0
    except KyotenError as error:
        log.error("intake-process-failed", reason=error.key)
    except Exception as error:
        log.error("intake-process-crashed", exc_info=error)
    finally:
        sys.stderr.flush()
        os._exit(status)  # not through the first process's frames and exit handlers


async def listen(end: socket.socket, directory: Path, work: Work) -> None:
    """What a child does: ``work`` from the first process's word to begin until its word to stop."""
    begun, stop = asyncio.Event(), asyncio.Event()

    async def told_to_begin(journal: str) -> None:
        if journal:
            try:
                await asyncio.to_thread(ahead.begin, Path(journal), lambda records: link.tell("adopt", records))
            except OSError as error:
                log.error("no-journal", path=journal, reason=error.strerror)
        begun.set()

    async def taken_over(number: int, receipts: list[tuple[bool, str, int]]) -> None:
        ahead.taken_over(number, [Receipt(*receipt) for receipt in receipts])

    async def told_to_stop() -> None:
        begun.set()
        stop.set()

    link = await attach(end, {"begin": told_to_begin, "stop": told_to_stop, "taken_over": taken_over})
    reports = Reports(link)
    ahead = Ahead(QueueThere(link, directory), AcceptedLog())
    around = Surroundings(ahead, MetricsThere(reports), SightingsThere(reports), stop)

    async def work_when_told() -> None:
        await begun.wait()
        await work(around)

    working = asyncio.ensure_future(work_when_told())
    gone = asyncio.ensure_future(link.closed.wait())
    await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
    if gone.done() and not working.done():
        os._exit(1)  # nothing can be accepted any more, and clients are best told by a closed connection
    gone.cancel()
    reports.flush()
    await asyncio.sleep(0)
    await working
    ahead.close()
    link.tell("goodbye")
    await asyncio.sleep(0)
    link.close()


async def attend(
    child: Child,
    queue: Queue,
    wake: Callable[[], None],
    metrics: Metrics,
    sightings: Sightings,
    stop: asyncio.Event,
    *,
    drain_s: float,
) -> None:
    """The first process's side of one child, until both have stopped. ``wake``: new mail is in the queue.

    Raises UnavailableError: it ended by itself.
    """
    targets: dict[str, Callable[..., None]] = {
        "accepted": metrics.accepted_together,
        "refused": metrics.refused,
        "login": metrics.login,
        "connected": metrics.connected,
        "saw": sightings.saw,
    }

    async def reports(gathered: list[_Report]) -> None:
        for name, arguments, named in gathered:
            targets[name](*arguments, **named)

    async def take(fields: tuple[Any, ...]) -> tuple[bool, str, int]:
        receipt = await queue.accept(unpacked(fields))
        wake()
        return _plain(receipt)

    def taken_over(number: int, receipts: Sequence[Receipt]) -> None:
        wake()
        link.tell("taken_over", number, [_plain(receipt) for receipt in receipts])

    path = queue.new_journal()
    adoption = Adoption(queue, path, taken_over) if path is not None else None

    async def adopt(records: list[Record]) -> None:
        if adoption is not None:
            adoption.put(records)

    said_goodbye = asyncio.Event()

    async def goodbye() -> None:
        said_goodbye.set()

    link = await attach(child.end, {"accept": take, "reports": reports, "adopt": adopt, "goodbye": goodbye})
    link.tell("begin", str(path or ""))
    log.info("intake-process", pid=child.pid)
    stopped, gone = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(link.closed.wait())
    try:
        await asyncio.wait((stopped, gone), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            raise UnavailableError("mail.link-closed", call="accept")
        link.tell("stop")
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s + END_S):
                await link.closed.wait()
    finally:
        stopped.cancel()
        gone.cancel()
        link.close()
        await asyncio.to_thread(_end, child.pid)
        if adoption is not None and said_goodbye.is_set():  # otherwise its journal may have what we were not told of
            await adoption.finish(END_S)


def _plain(receipt: Receipt) -> tuple[bool, str, int]:
    return receipt.taken, receipt.held, receipt.hour_count


def _end(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)  # it has said goodbye or had its time
        os.waitpid(pid, 0)
