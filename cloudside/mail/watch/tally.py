"""Recipients by name in the running hour and the day that ends with it, read once a pass for all who need it.

Finished hours do not change, so only the running one is asked for each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudside.mail.model import Scope
from cloudside.mail.store.queue import DAY_HOURS, Queue


@dataclass(slots=True)
class Tally:
    """Counts as of the last ``read``. ``hour`` is the running one."""

    queue: Queue
    hour: int = 0
    hours: dict[Scope, Mapping[str, int]] = field(default_factory=dict)
    days: dict[Scope, dict[str, int]] = field(default_factory=dict)
    _earlier: dict[Scope, Mapping[str, int]] = field(default_factory=dict)

    async def read(self, hour: int) -> None:
        """Count anew. Raises UnavailableError."""
        for scope in Scope:
            if hour != self.hour or scope not in self._earlier:
                self._earlier[scope] = await self.queue.counts(scope, hour - DAY_HOURS + 1, hour)
            running = await self.queue.counts(scope, hour, hour + 1)
            day = dict(self._earlier[scope])
            for name, count in running.items():
                day[name] = day.get(name, 0) + count
            self.hours[scope], self.days[scope] = running, day
        self.hour = hour
