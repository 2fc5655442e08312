"""Brings what one living journal has into the queue, in order and in groups, and says how far it came.

A mail that the queue does not take for a reason that no new try removes (a bug) is put aside as a file and told, so
that it is neither lost nor in the way of everything after it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from cloudside.errors import UnavailableError
from cloudside.mail.model import Receipt
from cloudside.mail.store.journal.records import Record
from cloudside.mail.store.journal.taking import GROUP_MAX, put_aside

log = structlog.get_logger(__name__)

AGAIN_S = 1.0


class Taker(Protocol):
    """The queue."""

    async def take_over(self, name: str, records: Sequence[Record]) -> list[Receipt]:
        """Write mails of a journal, all or none. Raises UnavailableError."""
        ...


class Adoption:
    """One journal's. ``taken_over`` is told (last number, receipts) after each group."""

    def __init__(self, queue: Taker, path: Path, taken_over: Callable[[int, Sequence[Receipt]], None]) -> None:
        self._queue = queue
        self._path = path
        self._taken_over = taken_over
        self._records: deque[Record] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, records: Sequence[Record]) -> None:
        """These are on the disk, and come after all that were put before."""
        self._records.extend(records)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def finish(self, within_s: float) -> None:
        """After the last one and the end of the process that wrote: remove the journal when all of it is taken over.

        If it is not in time, that is done at the next start.
        """
        if self._task is not None and not self._task.done():
            await asyncio.wait((self._task,), timeout=within_s)
            self._task.cancel()
        if not self._records:
            self._path.unlink(missing_ok=True)

    async def _work(self) -> None:
        told = False
        while self._records:
            group = [self._records[position] for position in range(min(GROUP_MAX, len(self._records)))]
            try:
                receipts = await self._take(group)
            except UnavailableError as error:
                if not told:
                    log.error("journal-not-taken-over", path=str(self._path), reason=error.key)
                told = True
                await asyncio.sleep(AGAIN_S)
                continue
            told = False
            for _ in group:
                self._records.popleft()
            self._taken_over(group[-1][0], receipts)

    async def _take(self, group: Sequence[Record]) -> Sequence[Receipt]:
        try:
            return await self._queue.take_over(self._path.name, group)
        except UnavailableError:
            raise
        except Exception as error:
            if len(group) > 1:
                return [receipt for record in group for receipt in await self._take([record])]
            log.error("mail-put-aside", path=str(put_aside(self._path, group[0])), exc_info=error)
            return [Receipt(taken=False, held="", hour_count=0)]
