"""What is not as it should be, as data: reported in each heartbeat until it is over."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router_agent.errors import AgentError, Parameter

#: How long an event (a repair, a refused log request) stays in the report, in seconds.
EVENT_KEPT_S = 300.0


@dataclass(frozen=True, slots=True)
class Problem:
    """``key`` is a message key of the cloud's catalogues, ``agent.<kebab-key>``; the router sends no sentences."""

    key: str
    params: Mapping[str, Parameter] = field(default_factory=dict)

    @staticmethod
    def of(error: AgentError) -> "Problem":
        """The problem that an error is."""
        return Problem(error.key, dict(error.params))


class ProblemBoard:
    """The problems that stand now. A part of the agent owns its own name on the board and overwrites it each time."""

    def __init__(self) -> None:
        self._standing: dict[str, tuple[Problem, ...]] = {}
        self._events: dict[str, tuple[float, Problem]] = {}

    def set(self, owner: str, *problems: Problem) -> bool:
        """What ``owner`` has to say now, nothing when all is well; True when that is news."""
        changed = self._standing.get(owner, ()) != problems
        self._standing[owner] = problems
        return changed

    def note(self, owner: str, problem: Problem, *, now: float) -> None:
        """Something that happened and is over; reported for EVENT_KEPT_S. The newest of an owner counts."""
        self._events[owner] = (now, problem)

    def current(self, *, now: float) -> tuple[Problem, ...]:
        """Everything to report, in a stable order."""
        events = [problem for at, problem in self._events.values() if now - at < EVENT_KEPT_S]
        standing = [problem for owner in sorted(self._standing) for problem in self._standing[owner]]
        return (*standing, *events)
