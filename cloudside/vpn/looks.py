"""Looking now and then whether everything still is as it was made, in pieces so short that a change need not wait.

A look is a generator. It yields what it wants read, a function, which another thread runs, and gets the answer back; it
yields None to let others go first. Between two pieces the daemon takes up what has happened. What was read may be out
of date when the answer comes: the look has to find that out.
"""

import math
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Look = Generator[Callable[[], Any] | None, Any, None]


@dataclass(slots=True)
class _Entry:
    name: str
    every_s: float
    begin: Callable[[], Look]
    due_at: float
    look: Look | None = None
    reading: "Future[Any] | None" = None

    @property
    def waits(self) -> bool:
        """Whether it waits for a reading."""
        return self.reading is not None and not self.reading.done()

    def ready(self, now: float) -> bool:
        """Whether a piece of it can be done now."""
        if self.look is None:
            return now >= self.due_at
        return not self.waits


class Looks:
    """The looks of one daemon, each every so many seconds. ``wake`` is called, by another thread, when a reading is
    done. One thread uses the rest.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: dict[str, _Entry] = {}
        # Two: a charon that does not answer must not keep the kernel from being looked at.
        self._reader = ThreadPoolExecutor(max_workers=2, thread_name_prefix="looks")

    def add(self, name: str, every_s: float, begin: Callable[[], Look], *, now: float) -> None:
        """Look from now on, the first time at once."""
        self._entries[name] = _Entry(name, every_s, begin, now)

    def soon(self, name: str, at: float) -> None:
        """Begin this one at ``at``, or earlier if it is due earlier. One that is under way begins once more."""
        entry = self._entries[name]
        entry.due_at = min(entry.due_at, at)

    def step(self, now: float) -> bool:
        """Do one piece of one look, if any can be done: the one that waits longest. True if so.

        Whatever a look raises ends that look, is passed on, and it begins again when it is due.
        """
        ready = [entry for entry in self._entries.values() if entry.ready(now)]
        if not ready:
            return False
        self._go_on(min(ready, key=lambda entry: entry.due_at), now)
        return True

    def wait_s(self, now: float) -> float:
        """Seconds until something can be done, as far as that is known: the end of a reading wakes."""
        due = [now if entry.ready(now) else entry.due_at for entry in self._entries.values() if not entry.waits]
        return max(0.0, min(due, default=math.inf) - now)

    def finish(self, now: float) -> None:
        """Do everything that is due, to its end."""
        while any(entry.look or entry.due_at <= now for entry in self._entries.values()):
            for entry in self._entries.values():
                if entry.reading is not None:
                    entry.reading.exception()  # waits
            self.step(now)

    def close(self) -> None:
        """Begin nothing more; what is being read is waited for."""
        self._reader.shutdown(cancel_futures=True)

    def _go_on(self, entry: _Entry, now: float) -> None:
        if entry.look is None:
            entry.look, entry.due_at = entry.begin(), now + entry.every_s
        look, reading, entry.reading = entry.look, entry.reading, None
        try:
            if reading is None:
                wanted = next(look)
            elif (error := reading.exception()) is not None:
                wanted = look.throw(error)
            else:
                wanted = look.send(reading.result())
        except StopIteration:
            entry.look = None
        except BaseException:
            entry.look = None
            raise
        else:
            if wanted is not None:
                entry.reading = self._reader.submit(wanted)
                entry.reading.add_done_callback(lambda _: self._wake())


class Rotation:
    """What is due of many things of which each is to be looked at now and then: a ``share`` of all each time."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._left: list[str] = []

    def next(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """The next ones, by name and size: as many as make the share of the whole, at least one if there is any.

        When all have had their turn it begins anew; those that come in between wait until then.
        """
        if not any(name in sizes for name in self._left):
            self._left = sorted(sizes, reverse=True)
        budget = self._share * sum(sizes.values())
        taken: list[str] = []
        size = 0
        while self._left and (not taken or size < budget):
            name = self._left.pop()
            if name in sizes:
                taken.append(name)
                size += sizes[name]
        return tuple(taken)
