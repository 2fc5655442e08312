"""The one thread that talks to the cloud. The main loop hands it one errand at a time and fetches outcomes.

It shares nothing with the main loop but two queues.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router_agent.bundle import Endpoint
from router_agent.errors import AgentError
from router_agent.report.cloud import CloudClient, Heard
from router_agent.report.documents import LogRequest


@dataclass(frozen=True, slots=True)
class HeartbeatErrand:
    """Send this heartbeat; ``began_at``: monotonic seconds when it was written."""

    document: Mapping[str, object]
    endpoints: tuple[Endpoint, ...]
    began_at: float


@dataclass(frozen=True, slots=True)
class LogErrand:
    """Collect and hand over a log."""

    request: LogRequest
    endpoints: tuple[Endpoint, ...]


Errand = HeartbeatErrand | LogErrand


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an errand: ``heard`` for a heartbeat that was answered, ``error`` when it failed."""

    errand: Errand
    heard: Heard | None = None
    error: AgentError | None = None


class Courier:
    """``collect`` makes the compressed log for a request; it runs in the courier's thread."""

    def __init__(self, client: CloudClient, collect: Callable[[LogRequest], bytes]) -> None:
        self._client = client
        self._collect = collect
        self._errands: queue.SimpleQueue[Errand | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        # A daemon thread: at the end nobody waits for a network that is dead.
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._open = 0

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, wait_s: float) -> None:
        """Take no more errands; wait this long for the one at hand."""
        self._errands.put(None)
        self._thread.join(wait_s)

    @property
    def busy(self) -> bool:
        """Whether an errand is under way or waiting."""
        return self._open > 0

    def send(self, errand: Errand) -> None:
        """Hand over an errand."""
        self._open += 1
        self._errands.put(errand)

    def outcomes(self) -> list[Outcome]:
        """What has come back since the last call."""
        found = []
        while True:
            try:
                found.append(self._outcomes.get_nowait())
            except queue.Empty:
                self._open -= len(found)
                return found

    def _run(self) -> None:
        while (errand := self._errands.get()) is not None:
            self._outcomes.put(self._do(errand))

    def _do(self, errand: Errand) -> Outcome:
        try:
            if isinstance(errand, HeartbeatErrand):
                return Outcome(errand, heard=self._client.heartbeat(errand.document, errand.endpoints))
            self._client.hand_over_log(errand.request.id, self._collect(errand.request), errand.endpoints)
            return Outcome(errand)
        except AgentError as error:
            return Outcome(errand, error=error)
        except Exception as error:  # the thread outlives any bug: a router that is mute cannot be mended
            return Outcome(errand, error=AgentError("agent.internal", reason=f"{type(error).__name__}: {error}"[:200]))
