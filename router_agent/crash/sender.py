"""Hands crash reports over, one at a time, in a lane of its own; looks back first."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from router_agent.bundle import Endpoint
from router_agent.crash.store import Store
from router_agent.crash.watch import Crashes
from router_agent.errors import CloudRefusedError
from router_agent.report.cloud import CloudClient

_log = logging.getLogger(__name__)

#: Seconds between looks at the kernel's log, and between two reports.
LOOK_S = 600.0
PAUSE_S = 5.0


class Sender:
    """The lane's work."""

    def __init__(
        self, crashes: Crashes, store: Store, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._crashes = crashes
        self._store = store
        self._clock = clock
        self._looked_back = False
        self._looked_at: datetime | None = None

    def step(self, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> float | None:
        """One report. Raises CloudUnreachableError: it is kept."""
        self._look()
        due = self._store.due(self._clock())
        if not due:
            return LOOK_S
        report = due[0]
        try:
            client.post("/agent/v1/crashes", json.dumps(report.document()).encode(), "application/json", endpoints)
        except CloudRefusedError as error:
            _log.warning("crash report %s: %s", report.id, error)
        else:
            _log.info("crash report %s handed over: %s", report.id, report.summary)
        self._store.sent(report, self._clock())
        return PAUSE_S

    def _look(self) -> None:
        if not self._looked_back:
            self._looked_back = True
            self._crashes.look_back()
            self._looked_at = self._clock()
        elif self._looked_at is None or abs((self._clock() - self._looked_at).total_seconds()) >= LOOK_S:
            self._looked_at = self._clock()
            self._crashes.look_at_kernel()
