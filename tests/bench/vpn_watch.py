"""What a gateway's charon says happened, with the time at which it said so."""

import threading
import time

from linux.charon import Charon, SaEvent
from linux.charon_process import socket_path
from linux.errors import CharonUnavailableError
from tests.bench.vpn_world import Responder


class Watch:
    """Listens on a thread of its own, on a connection of its own. Times are monotonic seconds."""

    def __init__(self, responder: Responder) -> None:
        self._path = socket_path(responder.directory)
        self._stop = threading.Event()
        self._events: list[tuple[float, SaEvent]] = []
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._listening.wait(5)

    def _run(self) -> None:
        charon = Charon(self._path)
        try:
            for event in charon.listen(idle_s=0.2):
                self._listening.set()
                if event is not None:
                    self._events.append((time.monotonic(), event))
                if self._stop.is_set():
                    break
        except CharonUnavailableError:
            self._listening.set()
        finally:
            charon.close()

    def ended(self, site: str) -> float | None:
        """When a site's IKE_SA first ended."""
        for at, event in tuple(self._events):
            if event.kind == "ike" and not event.up and event.sa.remote_id == site:
                return at
        return None

    def came_back(self, site: str) -> bool:
        """Whether a site had a CHILD_SA again after its IKE_SA ended."""
        ended = self.ended(site)
        return ended is not None and any(
            at > ended and event.kind == "child" and event.up and event.sa.remote_id == site
            for at, event in tuple(self._events)
        )

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=5)
