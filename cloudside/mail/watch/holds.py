"""Mail that waits for a hold that is no longer there goes out.

`kyoten mail release` takes a hold out of the registry and releases what waits. What the listeners took meanwhile, by
what they still knew, would wait for ever: so each hold that ends is followed up here, once everybody knows that it
ended. After a start all mail is looked at, because nobody watched before.

Only mail that was held as it came, or with its site, is meant: a limit's and what staff picked waits for staff.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from cloudside.mail.delivery.delivery import Delivery
from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.origins import Snapshot
from cloudside.mail.model import Entry, Scope, Selection, State, number_of
from cloudside.mail.store.queue import Queue

log = structlog.get_logger(__name__)

#: How the words begin that mail under a hold is kept with.
HELD = "hold: "
#: After so long each process that takes mail has read the registry again.
SETTLE_S = 10.0
#: Recipients looked at in one pass.
AT_ONCE = 10_000

#: Whose hold: scope, tenant of a device, name.
_Key = tuple[Scope, str, str]


@dataclass(slots=True)
class Holds:
    """The step of the watch."""

    queue: Queue
    directory: Directory
    delivery: Delivery
    _seen: Snapshot | None = None
    _standing: frozenset[_Key] = frozenset()
    #: What ended, and when mail is looked for. None: all mail.
    _ended: dict[_Key | None, float] = field(default_factory=dict)

    async def run(self, now: datetime) -> None:
        """One look. Raises KyotenError."""
        snapshot, at = self.directory.snapshot, now.timestamp()
        if snapshot is not self._seen:
            standing = frozenset(_holds(snapshot))
            if self._seen is None:
                self._ended[None] = at + SETTLE_S
            self._ended.update((key, at + SETTLE_S) for key in self._standing - standing)
            self._seen, self._standing = snapshot, standing
        for key in [key for key, due in self._ended.items() if due <= at]:
            if await self._release(snapshot, key, at):
                del self._ended[key]

    async def _release(self, snapshot: Snapshot, key: _Key | None, at: float) -> bool:
        """False: there may be more."""
        found = await self.queue.entries(_selection(key), AT_ONCE)
        ids = {number_of(one.message) for one in found if one.reply.startswith(HELD) and not _held(snapshot, one)}
        chosen = tuple(sorted(number for number in ids if number is not None))
        if chosen:
            count = 0
            for start in range(0, len(chosen), 500):  # SQLite takes 32,766 parameters at most
                which = Selection(ids=chosen[start : start + 500], states=(State.HELD,))
                count += await self.queue.release(which, at)
            log.info("mail-released-after-hold", recipients=count)
            self.delivery.wake()
        return len(found) < AT_ONCE or not chosen


def _holds(snapshot: Snapshot) -> Iterator[_Key]:
    for name, origin in snapshot.origins.items():
        if origin.hold:
            yield Scope.SITE, origin.tenant, name
    for tenant, device in snapshot.device_holds:
        yield Scope.DEVICE, tenant, device


def _selection(key: _Key | None) -> Selection:
    if key is None:
        return Selection(states=(State.HELD,))
    scope, tenant, name = key
    if scope is Scope.SITE:
        return Selection(origins=(name,), states=(State.HELD,))
    return Selection(tenant=tenant, device=name, states=(State.HELD,))


def _held(snapshot: Snapshot, entry: Entry) -> bool:
    """Whether a hold stands that the mail waits for; of a site that is gone nobody knows, so staff decide."""
    origin = snapshot.origins.get(entry.origin)
    return origin is None or bool(snapshot.hold(origin, entry.device))
