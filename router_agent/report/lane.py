"""A thread for one kind of work with the cloud, a step at a time. One that fails waits longer before the next."""

import logging
import random
import threading
from collections.abc import Callable
from typing import Protocol

from router_agent.backoff import Backoff
from router_agent.bundle import Endpoint
from router_agent.errors import AgentError, CloudUnreachableError
from router_agent.report.cloud import CloudClient

_log = logging.getLogger(__name__)

_AGAIN = Backoff(first_s=2.0, most_s=120.0)


class Work(Protocol):
    """What a lane does."""

    def step(self, client: CloudClient, endpoints: tuple[Endpoint, ...]) -> float | None:
        """Do a bit; seconds until the next step, None: there is nothing to do until somebody says so.

        Raises CloudUnreachableError: it is tried again.
        """
        ...


class Lane:
    """``client``: the one to use now. ``crashed`` hears of a bug in the work, which the thread outlives."""

    def __init__(
        self,
        name: str,
        work: Work,
        client: Callable[[], CloudClient],
        crashed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._work = work
        self._client = client
        self._crashed = crashed
        self._endpoints: tuple[Endpoint, ...] = ()
        self._awake = threading.Event()
        self._ended = False
        # A daemon thread: at the end nobody waits for a network that is dead.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work, as soon as there is a way to the cloud."""
        self._thread.start()

    def stop(self, wait_s: float) -> None:
        """Take no more steps; wait this long for the one at hand."""
        self._ended = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def aim(self, endpoints: tuple[Endpoint, ...]) -> None:
        """This is the way to the cloud now. The first one begins the work."""
        first, self._endpoints = not self._endpoints, endpoints
        if first:
            self._awake.set()

    def wake(self) -> None:
        """There is something to do."""
        self._awake.set()

    def _run(self) -> None:
        failures = 0
        while not self._ended:
            wait_s: float | None = None
            if self._endpoints:
                try:
                    wait_s = self._work.step(self._client(), self._endpoints)
                    failures = 0
                except AgentError as error:
                    failures += 1
                    level = logging.INFO if isinstance(error, CloudUnreachableError) else logging.WARNING
                    _log.log(level, "%s: %s", self._thread.name, error)
                except Exception as error:  # the thread outlives any bug: a router that is mute cannot be mended
                    failures += 1
                    _log.exception("%s: internal error", self._thread.name)
                    self._crashed(error)
                if failures:
                    wait_s = _AGAIN.delay_s(failures, random.random())  # noqa: S311 - spreads routers in time
            self._awake.wait(wait_s)
            self._awake.clear()
