"""Takes mail into this process's journal where that is enough, and leaves the rest to the queue.

Enough it is when the queue's answer cannot change the client's: no limit refuses, the body is small, the journal has
room. The queue's own word on it (held by a limit, the count of the hour) comes some milliseconds after the 250.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cloudside.mail.model import Action, NewMessage, Receipt, Spilled
from cloudside.mail.store.bodies import IN_DATABASE_MAX_BYTES
from cloudside.mail.store.journal.file import Journal, Written
from cloudside.mail.store.journal.records import Record

#: Mails that were taken within so long go on together: each hand-over wakes another process or thread, which the next
#: mail would wait for.
GATHER_S = 0.005


class Taking(Protocol):
    """The queue; it may be in another process."""

    def require_space(self, size_bytes: int) -> None:
        """Raise StorageFullError unless a mail of this size fits."""
        ...

    async def accept(self, new: NewMessage) -> Receipt:
        """Make a mail durable. Raises LimitExceededError, StorageFullError, UnavailableError."""
        ...


class Ahead:
    """A queue that mail can be given to, with a journal before it as soon as there is one."""

    def __init__(self, queue: Taking, told: Callable[[NewMessage, Receipt], None]) -> None:
        """``told`` gets the queue's receipt of each mail that `accept` returned None for."""
        self._queue = queue
        self._told = told
        self._journal: Journal | None = None
        self._hand_over: Callable[[list[Record]], None] = lambda _records: None
        self._gathered: list[Record] = []
        self._under_way: deque[NewMessage] = deque()

    def begin(self, path: Path, hand_over: Callable[[list[Record]], None]) -> None:
        """Make a journal and use it from now on; ``hand_over`` brings its records to whoever has the queue.

        Blocks. Raises OSError.
        """
        self._hand_over = hand_over
        self._journal = Journal(path, self._written)

    def require_space(self, size_bytes: int) -> None:
        """See Taking."""
        self._queue.require_space(size_bytes)

    async def accept(self, new: NewMessage) -> Receipt | None:
        """Make a mail durable; None: it is, and the receipt comes later. Raises what the queue does."""
        if self._journal is not None and _is_enough(new) and await self._journal.write(new):
            return None
        return await self._queue.accept(new)

    def taken_over(self, number: int, receipts: Sequence[Receipt]) -> None:
        """The queue has everything up to this number; these are the receipts of what it had not before."""
        if self._journal is not None:
            self._journal.taken_over(number)
        for receipt in receipts:
            self._told(self._under_way.popleft(), receipt)

    def close(self) -> None:
        """After the last mail. What was not handed over is taken over at the next start."""
        self._flush()
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    def _written(self, group: Sequence[Written]) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_later(GATHER_S, self._flush)
        for one in group:
            self._gathered.append((one.number, one.payload))
            self._under_way.append(one.new)

    def _flush(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._hand_over(gathered)


def _is_enough(new: NewMessage) -> bool:
    if isinstance(new.body, Spilled) or len(new.body) > IN_DATABASE_MAX_BYTES or new.once is not None:
        return False
    return all(limit.action is not Action.REFUSE for limit in new.limits)
