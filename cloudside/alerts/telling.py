"""One notice, told on every second way at once; by the mail queue only when these are not there or fail.

A notice counts as told when one way took it. The others go on trying beside, for a while. What is wrong with a way is
kept in ``troubles`` until it works again, for others to tell.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from cloudside.alerts.notices import Stage
from cloudside.alerts.paths import PathError, Telling, Way

log = structlog.get_logger(__name__)

#: Seconds before the second and the third try of a way.
PAUSES_S = (1.0, 5.0)
#: If no second way took it within this, the mail queue gets it too: twice is better than late.
PATIENCE_S = 2.5


@dataclass(slots=True)
class Teller:
    """All ways. ``last``: the mail queue; None when nobody is to get mail."""

    ways: Sequence[Way]
    last: Way | None
    pauses_s: Sequence[float] = PAUSES_S
    patience_s: float = PATIENCE_S
    #: Name of a way -> why it does not work.
    troubles: dict[str, str] = field(default_factory=dict)
    _under_way: set[asyncio.Task[bool]] = field(default_factory=set)

    @property
    def mute(self) -> bool:
        """Whether there is no way at all."""
        return not self.ways and self.last is None

    async def tell(self, telling: Telling) -> str | None:
        """The name of the way that took it first; None: none did. The end of an incident nobody may want: "-"."""
        chosen = [way for way in self.ways if way.name != telling.subject]
        if telling.stage is Stage.ENDED:
            chosen = [way for way in chosen if way.ends]
            if not chosen:
                return "-"
        taken = await self._first(telling, chosen)
        if taken is None and self.last is not None and telling.stage is not Stage.ENDED:
            taken = self.last.name if await self._try(self.last, telling, ()) else None
        if taken is None:
            log.error("notice-not-told", notice=telling.id, kind=telling.kind, subject=telling.subject)
        else:
            log.info("notice-told", notice=telling.id, kind=telling.kind, subject=telling.subject, way=taken)
        return taken

    def close(self) -> None:
        """Give up what is still being tried."""
        for task in self._under_way:
            task.cancel()

    async def _first(self, telling: Telling, ways: Sequence[Way]) -> str | None:
        """The first way that takes it within our patience; the others go on."""
        tasks = {asyncio.create_task(self._try(way, telling, self.pauses_s)): way.name for way in ways}
        self._under_way.update(tasks)
        for task in tasks:
            task.add_done_callback(self._under_way.discard)
        waiting = set(tasks)
        deadline = asyncio.get_running_loop().time() + self.patience_s
        while waiting:
            left_s = deadline - asyncio.get_running_loop().time()
            done, waiting = await asyncio.wait(waiting, timeout=max(left_s, 0), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.result():
                    return tasks[task]
            if not done:
                return None
        return None

    async def _try(self, way: Way, telling: Telling, pauses_s: Sequence[float]) -> bool:
        for pause_s in (*pauses_s, None):
            lasting = False
            try:
                await way.tell(telling)
            except PathError as error:
                reason, lasting = str(error), error.lasting
            except Exception as error:  # a bug in one way must not silence the others
                log.error("notice-way-crashed", way=way.name, exc_info=error)
                reason = type(error).__name__
            else:
                self.troubles.pop(way.name, None)
                return True
            log.warning("notice-way-failed", way=way.name, notice=telling.id, reason=reason)
            if lasting or pause_s is None:
                self.troubles[way.name] = reason
                return False
            await asyncio.sleep(pause_s)
        return False
