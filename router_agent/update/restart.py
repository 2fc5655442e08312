"""The machine's restart: asked for, and asked for harder when it does not come."""

import logging
from collections.abc import Callable

from linux.errors import LinuxError

_log = logging.getLogger(__name__)

#: A shutdown that takes longer than this hangs, in seconds.
AGAIN_S = 60.0


class Restart:
    """``act`` restarts the machine; with True without asking anybody. It raises LinuxError."""

    def __init__(self, act: Callable[[bool], None]) -> None:
        self._act = act
        self._asked = 0
        self._at: float | None = None

    @property
    def wanted(self) -> bool:
        """Whether the machine is about to go down: nothing else is begun."""
        return self._at is not None

    def ask(self, now: float) -> None:
        """Restart from now on."""
        self._at = now
        self.step(now)

    def step(self, now: float) -> None:
        """Ask again when it is time."""
        if self._at is None or now < self._at:
            return
        self._at = now + AGAIN_S
        self._asked += 1
        try:
            self._act(self._asked > 1)
        except LinuxError as error:
            _log.error("restart: %s", error)
