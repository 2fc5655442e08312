"""The threads that talk to the cloud, one for each kind of errand: the main loop hands them over.

Not one, because a log takes minutes on a bad line: heartbeats that waited behind it would make a healthy site look
silent, and undo a settings change for want of its confirmation. They share nothing with the main loop but queues.
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


@dataclass(frozen=True, slots=True)
class CertificateErrand:
    """Ask for the next certificate; ``csr``: the request, PEM."""

    csr: str
    endpoints: tuple[Endpoint, ...]


Errand = HeartbeatErrand | LogErrand | CertificateErrand


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an errand: ``heard`` for a heartbeat that was answered, ``files`` for a certificate that came,
    ``error`` when it failed."""

    errand: Errand
    heard: Heard | None = None
    files: Mapping[str, bytes] | None = None
    error: AgentError | None = None


class Courier:
    """``collect`` makes the compressed log for a request; it runs in a courier's thread, as ``client`` does."""

    def __init__(self, client: CloudClient, collect: Callable[[LogRequest], bytes]) -> None:
        self._client = client
        self._collect = collect
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._lanes: dict[type[Errand], queue.SimpleQueue[Errand | None]] = {
            kind: queue.SimpleQueue() for kind in (HeartbeatErrand, LogErrand, CertificateErrand)
        }
        # Daemon threads: at the end nobody waits for a network that is dead.
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"courier-{kind.__name__}", daemon=True)
            for kind, lane in self._lanes.items()
        ]
        self._open = 0

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def stop(self, wait_s: float) -> None:
        """Take no more errands; wait this long for those at hand."""
        for lane in self._lanes.values():
            lane.put(None)
        for thread in self._threads:
            thread.join(wait_s / len(self._threads))

    @property
    def client(self) -> CloudClient:
        """The client that errands go by; any thread."""
        return self._client

    def use(self, client: CloudClient) -> None:
        """The next errands go by this client; those under way end with the one before."""
        self._client = client

    @property
    def busy(self) -> bool:
        """Whether a heartbeat is under way or waiting."""
        return self._open > 0

    def send(self, errand: Errand) -> None:
        """Hand over an errand."""
        self._open += isinstance(errand, HeartbeatErrand)
        self._lanes[type(errand)].put(errand)

    def outcomes(self) -> list[Outcome]:
        """What has come back since the last call."""
        found = []
        while True:
            try:
                found.append(self._outcomes.get_nowait())
            except queue.Empty:
                self._open -= sum(isinstance(outcome.errand, HeartbeatErrand) for outcome in found)
                return found

    def _run(self, lane: "queue.SimpleQueue[Errand | None]") -> None:
        while (errand := lane.get()) is not None:
            self._outcomes.put(self._do(errand))

    def _do(self, errand: Errand) -> Outcome:
        try:
            if isinstance(errand, HeartbeatErrand):
                return Outcome(errand, heard=self._client.heartbeat(errand.document, errand.endpoints))
            if isinstance(errand, CertificateErrand):
                return Outcome(errand, files=self._client.next_certificate(errand.csr, errand.endpoints))
            self._client.hand_over_log(errand.request.id, self._collect(errand.request), errand.endpoints)
            return Outcome(errand)
        except AgentError as error:
            return Outcome(errand, error=error)
        except Exception as error:  # the thread outlives any bug: a router that is mute cannot be mended
            return Outcome(errand, error=AgentError("agent.internal", reason=f"{type(error).__name__}: {error}"[:200]))
