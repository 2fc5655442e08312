"""charon's events, on a thread of their own, because commands and events share no vici session.

Says nothing of what they mean: it queues them and wakes the daemon. A stream that breaks is the first sign that charon
died; it is opened again as soon as charon is back. One that is silent without being broken is not seen from here: who
compares listings with events sees it, and asks for another (`renew`).
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from linux.charon import Charon, SaEvent
from linux.errors import LinuxError

#: Seconds without an event after which the thread looks whether it should end.
IDLE_S = 0.5
#: Seconds between attempts to reach a charon that does not answer.
RETRY_S = 0.1


class Events:
    """``take`` gives what happened since the last time; ``wake`` is called, from this thread, when there is news."""

    def __init__(self, socket_path: Path, wake: Callable[[], None]) -> None:
        self._path = socket_path
        self._wake = wake
        self._queue: queue.SimpleQueue[SaEvent] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._broken = threading.Event()
        self._generation = 0
        self._opened_at: float | None = None
        self._thread = self._made()

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    def renew(self) -> None:
        """Listen anew, on another connection and another thread: whatever holds the old one is left to itself."""
        self._generation += 1
        self._thread = self._made()
        self._thread.start()

    @property
    def listening(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def take(self) -> list[SaEvent]:
        """Events since the last call, in order."""
        taken = []
        while True:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                return taken

    @property
    def waiting(self) -> bool:
        """Whether `take` would give something."""
        return not self._queue.empty()

    def broke(self) -> bool:
        """Whether the stream broke or was opened since the last call: then events may be missing."""
        if not self._broken.is_set():
            return False
        self._broken.clear()  # only what was seen: it may break at this moment
        return True

    @property
    def opened_at(self) -> float | None:
        """Since when this stream is there, monotonic seconds; None: there is none."""
        return self._opened_at

    def _made(self) -> threading.Thread:
        return threading.Thread(target=self._run, args=(self._generation,), name="charon-events", daemon=True)

    def _run(self, generation: int) -> None:
        while self._current(generation):
            charon = Charon(self._path)
            stream = charon.listen(idle_s=IDLE_S)
            try:
                fresh = True
                for event in stream:
                    if not self._current(generation):
                        break
                    if event is not None:
                        self._queue.put(event)
                    if fresh:
                        self._opened_at = time.monotonic()
                        self._broken.set()
                    # Behind others nobody need be woken: who was for the first takes them all, and if he has by now,
                    # this one is the first again.
                    if fresh or (event is not None and self._queue.qsize() <= 1):
                        self._wake()
                    fresh = False
            except LinuxError:
                if self._current(generation):
                    self._opened_at = None
                    self._broken.set()
                    self._wake()
                    self._stop.wait(RETRY_S)
            finally:
                charon.close()  # first, or a charon that hangs would be waited for while we take our leave
                stream.close()

    def _current(self, generation: int) -> bool:
        return generation == self._generation and not self._stop.is_set()
