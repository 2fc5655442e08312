"""Where in an update the power fails. Pure, but for reading the log.

After flushes, evenly spread; right before and after what an update hangs on (the boot state, the agent's journals);
anywhere. Between two flushes any part of what was written since the first is missing.
"""

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from firmware import layout
from firmware.layout import BOOTSTATE, DATA, MIB
from lab.power_cut.disk import BLOCK_BYTES
from lab.power_cut.write_log import Request, WriteLog

#: Of the cuts: right after a flush; near what an update hangs on. The rest is anywhere.
AT_FLUSH, NEAR_MARK = 0.45, 0.35
#: How many requests away from a mark is near.
NEAR = 12
#: Of the blocks that were not flushed, how many are there.
SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)
#: How the agent's journals begin: of the update, of the settings.
JOURNALS = (b'{\n "format": 1,\n "trial_id"', b'{\n "format": 1,\n "current"')

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cut:
    """The power fails after the first ``position`` requests, of which the first ``flushed`` are safe; of the others
    each block is there with probability ``share``."""

    number: int
    position: int
    flushed: int
    share: float

    @property
    def safe(self) -> bool:
        """Nothing is missing that a disk may forget."""
        return self.flushed == self.position


def marks(log: WriteLog) -> tuple[int, ...]:
    """Positions right after what an update hangs on was written."""
    return tuple(number for number, request in enumerate(log.requests, 1) if _is_mark(log, request))


def _is_mark(log: WriteLog, request: Request) -> bool:
    if not request.size:
        return False
    boot = layout.offset_mib(BOOTSTATE) * MIB
    if boot <= request.offset < boot + BOOTSTATE.size_mib * MIB:
        return True
    if request.offset < layout.offset_mib(DATA) * MIB:
        return False
    longest = max(map(len, JOURNALS))
    return any(log.head(request, at, longest).startswith(JOURNALS) for at in range(0, request.size, BLOCK_BYTES))


def choose(log: WriteLog, count: int, dice: random.Random) -> list[Cut]:
    """So many cuts, in rising order; the first one is before everything."""
    last, flushes, near = len(log.requests), log.flushes, marks(log)
    even = min(len(flushes), round(count * AT_FLUSH))
    places = [(0, 0.0), *((flushes[len(flushes) * number // even], 0.0) for number in range(even))]
    exact = [place for mark in near for place in (mark - 1, mark)]
    wanted = min(count - len(places), round(count * NEAR_MARK)) if near else 0
    for number in range(wanted):
        # Each mark from both sides where there are cuts enough; else some of them.
        place = exact[number] if len(exact) <= wanted and number < len(exact) else dice.choice(near) + _beside(dice)
        places.append((min(max(place, 0), last), dice.choice(SHARES)))
    places += [(dice.randint(0, last), dice.choice(SHARES)) for _ in range(count - len(places))]
    flushed = (0, *flushes)
    return [
        Cut(number, position, flushed[bisect_right(flushed, position) - 1], share)
        for number, (position, share) in enumerate(sorted(places))
    ]


def _beside(dice: random.Random) -> int:
    return dice.randint(-NEAR, NEAR)


def spread(groups: Mapping[str, Sequence[T]], count: int, dice: random.Random) -> list[T]:
    """So many of all, from each group as many as from any other, as far as it has them."""
    left = {name: dice.sample(members, len(members)) for name, members in sorted(groups.items())}
    chosen: list[T] = []
    while len(chosen) < count and any(left.values()):
        for members in left.values():
            if members and len(chosen) < count:
                chosen.append(members.pop())
    return chosen
