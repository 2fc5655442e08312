"""Is charon well? It may be dead, hung or busy, and only one of these is mended by ending it. Pure.

A charon that does not answer and uses no processor time is hung (stopped, or its threads wait for each other). One
that does not answer but works is busy, or its vici is stuck while its tunnels still carry packets: ending that one
would cost every site its tunnel, so it is only reported.
"""

from dataclasses import dataclass
from enum import Enum

from cloudside.datapath.problems import Problem, problem

#: Seconds that a question to a charon that did not answer last time may take. Rules must not wait for it.
SHORT_QUESTION_S = 1.0
#: Seconds between such questions.
ASK_AGAIN_S = 3.0
#: A charon that uses less of one processor than this while it does not answer does nothing. Idle threads use 0.001.
WORKING_SHARE = 0.005


class State(Enum):
    """What is known of charon."""

    WELL = "well"
    SILENT = "silent"
    BUSY = "busy"
    HUNG = "hung"


@dataclass(slots=True)
class Health:
    """Fed with answers and silences. ``restart_s`` 0: never HUNG. All times are monotonic seconds."""

    report_s: float
    restart_s: float
    _silent_since: float | None = None
    _used_s: float = 0.0
    _ask_at: float = 0.0

    def answered(self) -> None:
        """It answered, or it is a new process."""
        self._silent_since = None

    def silent(self, *, now_s: float, used_s: float) -> None:
        """It did not answer. ``used_s``: processor time of the process until now."""
        if self._silent_since is None:
            self._silent_since, self._used_s = now_s, used_s
        self._ask_at = now_s + ASK_AGAIN_S

    @property
    def doubted(self) -> bool:
        """Whether the last question was not answered: ask a short one first."""
        return self._silent_since is not None

    def ask_now(self, *, now_s: float) -> bool:
        """Whether it is time to ask a charon that is doubted."""
        return now_s >= self._ask_at

    def state(self, *, now_s: float, used_s: float) -> State:
        """What it is now."""
        if self._silent_since is None:
            return State.WELL
        silent_s = now_s - self._silent_since
        if silent_s < self.report_s:
            return State.SILENT
        if used_s - self._used_s > WORKING_SHARE * silent_s:
            return State.BUSY
        return State.HUNG if self.restart_s and silent_s >= self.restart_s else State.SILENT

    def problems(self, *, now_s: float, used_s: float) -> tuple[Problem, ...]:
        """What is to be reported."""
        if self._silent_since is None or now_s - self._silent_since < self.report_s:
            return ()
        if self.state(now_s=now_s, used_s=used_s) is State.BUSY:
            return (problem("vpn.charon-busy"),)
        return (problem("vpn.charon-hung"),)
