"""charon's events, on a thread of their own, because commands and events share no vici session.

Says nothing of what they mean: it queues them and wakes the daemon. A stream that breaks is the first sign that charon
died; it is opened again as soon as charon is back.
"""

import queue
import threading
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
        self._thread = threading.Thread(target=self._run, name="charon-events", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    def take(self) -> list[SaEvent]:
        """Events since the last call, in order."""
        taken = []
        while True:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                return taken

    def broke(self) -> bool:
        """Whether the stream broke or was opened since the last call: then events may be missing."""
        broken = self._broken.is_set()
        self._broken.clear()
        return broken

    def _run(self) -> None:
        while not self._stop.is_set():
            charon = Charon(self._path)
            try:
                fresh = True
                for event in charon.listen(idle_s=IDLE_S):
                    if self._stop.is_set():
                        break
                    if event is not None:
                        self._queue.put(event)
                    if fresh:
                        self._broken.set()
                    if event is not None or fresh:
                        self._wake()
                    fresh = False
            except LinuxError:
                self._broken.set()
                self._wake()
                self._stop.wait(RETRY_S)
            finally:
                charon.close()
