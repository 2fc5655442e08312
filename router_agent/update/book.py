"""The update's state, in memory and in the journal: what is about to be done is written first."""

import logging

from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.update.journal import Journal
from router_agent.update.machine import UpdateState

_log = logging.getLogger(__name__)

#: Seconds before a state that could not be written is written again.
WRITE_AGAIN_S = 10.0


class Book:
    """``at``: seconds since the epoch, for the time of each change."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._saved: UpdateState | None = None
        self._write_at = 0.0
        self.state = UpdateState()
        self.at = 0.0
        self.trouble: Problem | None = None

    def load(self) -> None:
        """Read the state. One that is damaged is that of a new router, and said so."""
        try:
            self.state = self._saved = self._journal.load()
        except StateError as error:
            _log.error("the update's journal: %s", error)
            self.trouble = Problem.of(error)

    def writable(self, now: float) -> bool:
        """Whether an act may be begun: nothing waits to be written. Writes what does, when it is time."""
        if self.state != self._saved and now >= self._write_at:
            self._save(self.state, now)
        return self.state == self._saved

    def enter(self, state: UpdateState, now: float) -> bool:
        """Go to this state, before the act that belongs to it. If it cannot be written all stays as it was."""
        if now < self._write_at or not self._save(state, now):
            return False
        self.state = state
        return True

    def happened(self, state: UpdateState, now: float) -> None:
        """This is so, whether it can be written now or only later."""
        self.state = state
        self._save(state, now)

    def _save(self, state: UpdateState, now: float) -> bool:
        if state == self._saved:
            return True
        try:
            self._journal.save(state)
        except StateError as error:
            if self.trouble is None:
                _log.error("the update's journal: %s", error)
            self.trouble = Problem.of(error)
            self._write_at = now + WRITE_AGAIN_S
            return False
        self._saved = state
        self._write_at = 0.0
        self.trouble = None
        return True
