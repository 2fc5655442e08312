"""What troubles a gateway right now, by the part of the work that it is a trouble of."""

from collections.abc import Callable, Generator
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.datapath.problems import Problem, from_error, problem
from cloudside.errors import KyotenError
from cloudside.vpn import desired
from cloudside.vpn.looks import Look
from linux.errors import LinuxError
from rules.problems import PolicyError

log = structlog.get_logger("kyoten.gateway")

#: Seconds that a trouble which mended itself (drift, an expelled tunnel) stays in the report.
REMEMBER_S = 300.0

#: A look that ends with what troubles it.
Looking = Generator[Callable[[], Any] | None, Any, tuple[Problem, ...]]

_EXPECTED = (KyotenError, PolicyError, LinuxError, SQLAlchemyError, OSError)


class Troubles:
    """Keeps them; each new one is logged. A part's key is also the message that says that it broke."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of_parts: dict[str, tuple[Problem, ...]] = {}
        self._remembered: dict[Problem, float] = {}

    def step(self, part: str, action: Callable[[], tuple[Problem, ...]]) -> None:
        """Run a part of the work; its troubles take the place of those it had. Raises nothing that may mend itself."""
        try:
            found = action()
        except _EXPECTED as error:
            found = _problems_of(error, part)
        self._settle(part, found)

    def look(self, part: str, look: Callable[[], Looking]) -> Look:
        """The same for a look."""
        try:
            found = yield from look()
        except _EXPECTED as error:
            found = _problems_of(error, part)
        self._settle(part, found)

    def of(self, part: str) -> tuple[Problem, ...]:
        """What troubled a part when it was last run."""
        return self._of_parts.get(part, ())

    def remember(self, found: tuple[Problem, ...]) -> None:
        """Tell of these for REMEMBER_S seconds, though they are over."""
        for one in found:
            if one not in self._remembered:
                log.warning("problem", key=one.key, **dict(one.params))
            self._remembered[one] = self._clock() + REMEMBER_S

    def all(self) -> tuple[Problem, ...]:
        """Everything there is to tell."""
        clock = self._clock()
        self._remembered = {one: until for one, until in self._remembered.items() if until > clock}
        found = [one for part in self._of_parts.values() for one in part]
        return tuple(dict.fromkeys([*found, *self._remembered]))

    def _settle(self, part: str, found: tuple[Problem, ...]) -> None:
        for one in set(found) - set(self._of_parts.get(part, ())):
            log.warning("problem", key=one.key, **dict(one.params))
        self._of_parts[part] = found


def _problems_of(error: Exception, part: str) -> tuple[Problem, ...]:
    if isinstance(error, KyotenError):
        return (from_error(error),)
    if isinstance(error, PolicyError):
        return tuple(desired.of_rule(mistake) for mistake in error.problems)
    return (problem(part, reason=str(error)[:400]),)
