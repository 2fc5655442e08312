"""The file of one journal: two halves, written in turns.

Invariants: what `write` said yes to is on the disk; mails are handed on in the order of their numbers, after their
sync; a half is written over only when the queue has all of it. The file is made of written blocks from the beginning:
then a record costs one flush of the disk and no transaction of the file system, and cannot fail for want of space. A
lock on it lasts as long as the process: whoever has it may read the file.
"""

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloudside.mail.model import NewMessage
from cloudside.mail.store.journal.records import framed, payload_of, size_of
from linux.files import flush_directory

log = structlog.get_logger(__name__)

#: Some hundred mails: the queue is a few behind, and mail that finds no room goes to the queue itself.
HALF_BYTES = 4 * 1024 * 1024
#: A disk that syncs faster than this is waited for in the event loop: two changes of thread take longer.
INLINE_MAX_S = 0.002
#: Weight of the newest sync in their mean.
_NEWEST = 0.2
_ZEROS_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """A mail that is on the disk, under its number."""

    number: int
    payload: bytes
    new: NewMessage


@dataclass(frozen=True, slots=True)
class _Wish:
    """A mail that waits for its sync, and who waits for the answer."""

    new: NewMessage
    payload: bytes
    answer: asyncio.Future[bool]


class Journal:
    """Writes, from one event loop. ``written`` is given what is on the disk."""

    def __init__(
        self,
        path: Path,
        written: Callable[[Sequence[Written]], None],
        *,
        half_bytes: int = HALF_BYTES,
        inline_max_s: float = INLINE_MAX_S,
    ) -> None:
        """Make the file. Blocks: not in the event loop. Raises OSError: it cannot be made, and is not there."""
        self._path = path
        self._written = written
        self._half_bytes = half_bytes
        self._inline_max_s = inline_max_s
        self._fd = _made(path, 2 * half_bytes)
        self._waiting: list[_Wish] = []
        self._at_work = False
        self._broken = False
        self._half = 0
        self._offset = 0
        self._number = 0
        #: The last number in each half, and the last one that the queue has.
        self._last = [0, 0]
        self._taken_over = 0
        self._sync_s = 0.0
        self._thread: ThreadPoolExecutor | None = None

    async def write(self, new: NewMessage) -> bool:
        """Whether it is on the disk now. False: there is no room, it cannot be written, or the disk failed."""
        if self._broken:
            return False
        try:
            payload = payload_of(new)
        except ValueError:
            return False
        loop = asyncio.get_running_loop()
        wish = _Wish(new, payload, loop.create_future())
        self._waiting.append(wish)
        if not self._at_work:
            self._at_work = True
            loop.call_soon(self._begin)  # what comes in the same turn of the loop shares the sync
        return await wish.answer

    def taken_over(self, number: int) -> None:
        """The queue has everything up to this number, on the disk."""
        self._taken_over = number

    def close(self) -> None:
        """After the last write. The file stays."""
        if self._thread is not None:
            self._thread.shutdown()
        os.close(self._fd)

    def _begin(self) -> None:
        """Write what waits and fits into one half; what finds no room is told so."""
        waiting, self._waiting = self._waiting, []
        group: list[Written] = []
        place = 0
        for position, wish in enumerate(waiting):
            size = size_of(wish.payload)
            if self._offset + size > self._half_bytes:
                if group:  # the other half's turn comes after this sync
                    self._waiting = waiting[position:]
                    waiting = waiting[:position]
                    break
                if not self._turned(size):
                    break
            if not group:
                place = self._half * self._half_bytes + self._offset
            self._number += 1
            self._last[self._half] = self._number
            self._offset += size
            group.append(Written(self._number, wish.payload, wish.new))
        for wish in waiting[len(group) :]:
            _tell(wish, answer=False)
        if not group:
            self._at_work = False
        elif self._sync_s <= self._inline_max_s:
            self._end(group, waiting, good=self._put(group, place))
        else:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="mail-journal")
            putting = asyncio.get_running_loop().run_in_executor(self._thread, self._put, group, place)
            putting.add_done_callback(lambda done: self._end(group, waiting, good=done.result()))

    def _turned(self, size: int) -> bool:
        """Go over to the other half, if the queue has all of it."""
        other = 1 - self._half
        if size > self._half_bytes or self._last[other] > self._taken_over:
            return False
        self._half, self._offset = other, 0
        return True

    def _put(self, group: Sequence[Written], place: int) -> bool:
        content = b"".join([framed(one.number, one.payload) for one in group])
        began = time.perf_counter()
        try:
            if os.pwritev(self._fd, [content], place, os.RWF_DSYNC) != len(content):
                raise OSError(errno.EIO, "written in part")
        except OSError as error:
            # What the disk has now nobody knows, and another sync would not tell.
            self._broken = True
            log.error("journal-failed", path=str(self._path), reason=error.strerror)
            return False
        self._sync_s += (time.perf_counter() - began - self._sync_s) * _NEWEST
        return True

    def _end(self, group: Sequence[Written], wishes: Sequence[_Wish], *, good: bool) -> None:
        if good:
            self._written(group)
        for wish in wishes[: len(group)]:
            _tell(wish, answer=good)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin)
        else:
            self._at_work = False


def _tell(wish: _Wish, *, answer: bool) -> None:
    if not wish.answer.done():
        wish.answer.set_result(answer)


def _made(path: Path, size: int) -> int:
    """A new file of zeros, on the disk with its name, locked; its descriptor. Raises OSError."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        zeros = bytes(min(size, _ZEROS_BYTES))
        for place in range(0, size, len(zeros)):
            os.pwrite(opened, zeros[: size - place], place)
        os.fsync(opened)
        flush_directory(path.parent)
    except OSError:
        os.close(opened)
        path.unlink()
        raise
    return opened
