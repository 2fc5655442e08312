"""Mail that several relays ended on, one after the other, is held; somebody has to look at it."""

from dataclasses import dataclass
from datetime import datetime

from cloudside.mail.model import shown_id
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch import remedies
from cloudside.mail.watch.ledger import DAILY_S, Facts, Ledger, Params

PARKED = "mail-parked"
#: Such mail comes when a relay starts, or takes over from one that is dead.
LOOK_EVERY_S = 30.0
#: Incident of our own mail: reports and notices.
_OURS = "relay"
_NAMED_MAX = 5


@dataclass(slots=True)
class Parked:
    """The step of the watch that looks for it."""

    queue: Queue
    ledger: Ledger
    _next: float = 0.0

    async def run(self, now: datetime) -> None:
        """One look. Raises KyotenError."""
        if now.timestamp() < self._next:
            return
        self._next = now.timestamp() + LOOK_EVERY_S
        wanted = {origin or _OURS: _facts(ids) for origin, ids in (await self.queue.parked()).items()}
        await self.ledger.settle(PARKED, wanted, now, remind_s=DAILY_S, shared=True)


def _facts(ids: list[int]) -> Facts:
    async def known() -> Params:
        shown = [shown_id(number) for number in ids[:_NAMED_MAX]]
        return {
            "count": len(ids),
            "names": ", ".join(shown) + (" ..." if ids[_NAMED_MAX:] else ""),
            "commands": remedies.of_parked(shown),
        }

    return known
