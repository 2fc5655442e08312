"""A payload over a line that drops: what is missing is asked for, chunk by chunk checked, and kept on the disk.

Nothing is resumed but content: after a new address, another line, another endpoint, a reboot, the journal says what is
missing. A chunk that had begun when a connection broke is taken up at the very byte. Runs in a process of its own that
is killed when bytes may not travel now; a kill costs at most the chunk that was under way.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from firmware import chunks
from firmware.chunks import Run
from firmware.release import File
from router_agent.backoff import Backoff
from router_agent.errors import AgentError, CloudRefusedError, CloudUnreachableError
from router_agent.update.client import CloudBusyError
from router_agent.update.payload_journal import Folder, Payload, tidy
from router_agent.update.work import Progress

#: Payloads lie here, below the update's own directory.
DIRECTORY = "payload"

#: Chunks asked for at once. More saves nothing; less is a round trip for each.
RUN_CHUNKS = 16
#: A chunk that came wrong so often is wrong where it is kept.
WRONG_MAX = 3
#: Answers in a row that were about something else, or a no, before we believe it.
REFUSED_MAX = 3
#: Seconds without a byte of progress after which this attempt is over; whoever asked tries again later.
PATIENCE_S = 1800.0
AGAIN = Backoff(1, 60)
#: Seconds between reports.
REPORT_S = 1.0


class PayloadSource(Protocol):
    """Where payloads come from: `client.FirmwareClient`."""

    def ranged(self, name: str, start: int, end: int, size: int) -> Iterator[bytes]:
        """Exactly these bytes. Raises CloudUnreachableError, CloudRefusedError."""
        ...

    def pass_over(self) -> None:
        """What came was wrong: ask somewhere else next."""
        ...


class ChunkWrongError(AgentError):
    """The cloud has a chunk that is not the one that was signed: ``file``, ``chunk`` (from 0), ``times``."""


@dataclass(slots=True)
class TokenBucket:
    """At most ``rate_bytes_s`` in the long run, a second's worth at once; 0: no limit."""

    rate_bytes_s: float
    _level: float = 0.0
    _at: float | None = None

    def wait_s(self, length: int, now: float) -> float:
        """Take so many bytes; the seconds to wait before taking more."""
        if self.rate_bytes_s <= 0:
            return 0.0
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._level = min(self._level + passed * self.rate_bytes_s, self.rate_bytes_s) - length
        self._at = now
        return max(0.0, -self._level / self.rate_bytes_s)


def fetch(
    file: File,
    source: PayloadSource,
    directory: Path,
    *,
    now: Callable[[], float],
    sleep: Callable[[float], None],
    report: Callable[[Progress], None],
    rate_bytes_s: float = 0.0,
    patience_s: float = PATIENCE_S,
    roll: Callable[[], float] = random.random,
) -> Payload:
    """Bring all of ``file`` into ``<directory>/payload``; other payloads there are removed. ``now``: monotonic.

    Raises CloudUnreachableError: nothing came for ``patience_s``; CloudRefusedError: it is not there; ChunkWrongError;
    StateError: the disk. What has come stays and need not come again.
    """
    place = directory / DIRECTORY
    tidy(place, keep=file)
    payload = Payload(Folder(place), file)
    payload.reserve()
    fetching = _Fetching(payload, source, TokenBucket(rate_bytes_s), now, sleep, report)
    fetching.tell(force=True)
    failures = refusals = 0
    while missing := payload.missing():
        before = fetching.travelled
        try:
            fetching.run(next(chunks.runs(missing, most=RUN_CHUNKS)))
            failures = refusals = 0
        except CloudUnreachableError as error:
            failures = failures + 1 if fetching.travelled == before else 1
            if now() - fetching.moved_at > patience_s:
                raise
            asked = error.wait_s if isinstance(error, CloudBusyError) else 0.0
            sleep(max(asked, AGAIN.delay_s(failures, roll())))
        except CloudRefusedError:
            refusals = refusals + 1 if fetching.travelled == before else 1
            if refusals >= REFUSED_MAX:
                raise
            source.pass_over()
            sleep(AGAIN.delay_s(refusals, roll()))
    fetching.tell(force=True)
    return payload


class _Fetching:
    """One attempt's memory: the chunk that has begun, how often each was wrong, what has travelled."""

    def __init__(
        self,
        payload: Payload,
        source: PayloadSource,
        bucket: TokenBucket,
        now: Callable[[], float],
        sleep: Callable[[float], None],
        report: Callable[[Progress], None],
    ) -> None:
        self._payload, self._source, self._bucket = payload, source, bucket
        self._now, self._sleep, self._report = now, sleep, report
        self._begun: int | None = None
        self._part = bytearray()
        self._wrong: Counter[int] = Counter()
        self._told_at = float("-inf")
        self.travelled = 0
        self.moved_at = now()

    def run(self, run: Run) -> None:
        """Bring a run of chunks. Raises as `fetch`."""
        file = self._payload.file
        if self._begun != run.first:
            self._begin(run.first)
        start = chunks.span(file, run.first)[0] + len(self._part)
        end = chunks.span(file, run.end - 1)[1]
        bad = False
        for piece in self._source.ranged(file.name, start, end, file.size):
            self.travelled += len(piece)
            self.moved_at = self._now()
            bad |= self._take(piece, run.end)
            self.tell()
            wait_s = self._bucket.wait_s(len(piece), self._now())
            if wait_s > 0:
                self._sleep(wait_s)
        if bad:
            self._source.pass_over()

    def tell(self, *, force: bool = False) -> None:
        """Say how far it is, now and then."""
        if force or self._now() - self._told_at >= REPORT_S:
            self._told_at = self._now()
            done = self._payload.have_bytes + len(self._part)
            self._report(Progress(done, self._payload.file.size, self.travelled))

    def _begin(self, index: int | None) -> None:
        self._begun = index
        self._part.clear()

    def _take(self, piece: bytes, end: int) -> bool:
        """Put bytes in their place; True: a chunk that they completed was wrong."""
        bad = False
        view = memoryview(piece)
        while view and self._begun is not None:
            index = self._begun
            first, after = chunks.span(self._payload.file, index)
            room = after - first - len(self._part)
            self._part += view[:room]
            view = view[room:]
            if len(self._part) < after - first:
                break
            good = self._payload.keep(index, bytes(self._part))
            self._begin(index + 1 if index + 1 < end else None)
            if not good:
                bad = True
                self._wrong[index] += 1
                if self._wrong[index] >= WRONG_MAX:
                    raise ChunkWrongError(
                        "agent.update-chunk-wrong", file=self._payload.file.name, chunk=index, times=WRONG_MAX
                    )
        return bad


def have_bytes(directory: Path, file: File) -> int:
    """How much of a payload is on the disk and need not travel. Raises StateError."""
    return Payload(Folder(directory / DIRECTORY), file).have_bytes
