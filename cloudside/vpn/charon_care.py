"""Looks after charon: whether it answers, whether its events still come, whether it has its settings.

What it finds wrong it mends where that costs no tunnel, and where charon hangs; everything becomes a problem.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from cloudside.config import Vpn
from cloudside.datapath.problems import Problem, problem
from cloudside.vpn.contests import Comings, problem_of
from cloudside.vpn.health import SHORT_QUESTION_S, Health, State
from cloudside.vpn.tunnels import Rules, Table, unannounced
from linux.charon import IkeSa, SaEvent
from linux.errors import CharonRefusedError, CharonUnavailableError

log = structlog.get_logger("kyoten.gateway")

#: An event comes the moment an SA is up, and waits in the queue for as long as a pass takes. One that is not there so
#: many seconds after a listing showed the SA will not come.
EVENT_LATE_S = 3.0


class Process(Protocol):
    """charon's process (linux.charon_process)."""

    @property
    def pid(self) -> int | None: ...
    def used_s(self) -> float: ...
    def kill(self) -> None: ...
    def refresh(self) -> bool: ...
    def need_restart(self) -> tuple[str, ...]: ...


class Asked(Protocol):
    """charon itself (linux.charon)."""

    def version(self, *, timeout_s: float = 0) -> str: ...
    def reload_settings(self) -> None: ...
    def close(self) -> None: ...


class Stream(Protocol):
    """The stream of events (vpn.events)."""

    @property
    def opened_at(self) -> float | None: ...
    @property
    def listening(self) -> bool: ...
    def renew(self) -> None: ...


def rules_of(vpn: Vpn) -> Rules:
    """What tunnels have to keep to."""
    old = vpn.old_routers
    return Rules(frozenset(old.sites) if old is not None else frozenset(), vpn.child_sas_per_site)


class CharonCare:
    """One for a reconciler, used by its thread. ``clock``: monotonic seconds, the same as the stream's."""

    def __init__(
        self, process: Process, charon: Asked, vpn: Vpn, clock: Callable[[], float], events: Stream | None = None
    ) -> None:
        self._process = process
        self._charon = charon
        self._clock = clock
        self._events = events
        self._health = Health(vpn.hung_report_s, vpn.hung_restart_s)
        self._comings = Comings(vpn.contested_returns, vpn.contested_window_s)
        self._pid: int | None = None
        #: SAs that a listing told of and no event yet, and since when.
        self._suspected: dict[int, float] = {}
        self._need_restart: tuple[str, ...] = ()
        self._reload = False
        #: Why it did not take its settings when it was last told to; empty: it did.
        self._refused = ""

    def answers(self) -> bool:
        """Whether charon may be asked for anything in this pass. One that did not answer is asked a short question now
        and then, so that nobody waits for it; one that hangs is ended here.
        Raises CharonUnavailableError: it did not answer when it was to take its settings.
        """
        if self._process.pid != self._pid:
            self._health.answered()
            self._pid = self._process.pid
            self._adopt()
        if not self._health.doubted:
            self._reload_settings()
            return True
        now_s = self._clock()
        if self._health.state(now_s=now_s, used_s=self._process.used_s()) is State.HUNG:
            log.warning("charon-killed", pid=self._process.pid)
            self._process.kill()
            self._charon.close()
            return False
        if not self._health.ask_now(now_s=now_s):
            return False
        try:
            self._charon.version(timeout_s=SHORT_QUESTION_S)
        except CharonUnavailableError:
            self.silent()
            return False
        self._health.answered()
        self._reload_settings()
        return True

    def silent(self) -> None:
        """charon did not answer."""
        if self._process.pid is not None:
            self._health.silent(now_s=self._clock(), used_s=self._process.used_s())

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with charon now."""
        found = self._health.problems(now_s=self._clock(), used_s=self._process.used_s())
        if self._need_restart:
            found += (problem("vpn.charon-needs-restart", what=", ".join(self._need_restart)),)
        if self._refused:
            found += (problem("vpn.charon-settings-refused", reason=self._refused),)
        return found

    def note(self, events: Iterable[SaEvent]) -> tuple[Problem, ...]:
        """Take events; what they show."""
        found = []
        for event in events:
            self._suspected.pop(event.sa.unique_id, None)
            contested = self._comings.note(event, now_s=self._clock())
            if contested is not None:
                found.append(problem_of(contested, window_s=self._comings.window_s))
        return tuple(dict.fromkeys(found))

    def compare(self, table: Table, listing: Iterable[IkeSa]) -> tuple[Problem, ...]:
        """Hold a listing against what events told, and open the stream anew when they tell nothing any more."""
        self._comings.forget_old(now_s=self._clock())
        events = self._events
        if events is None:
            return ()
        if not events.listening:
            return self._renew(events)
        opened_at = events.opened_at
        if opened_at is None:
            self._suspected.clear()
            return ()
        now_s = self._clock()
        listed = {sa.unique_id: sa for sa in listing}
        self._suspected = {number: since for number, since in self._suspected.items() if number in listed}
        if any(now_s - since >= EVENT_LATE_S for since in self._suspected.values()):
            self._suspected.clear()
            return self._renew(events)
        for number in unannounced(table, listed.values(), younger_than_s=now_s - opened_at):
            self._suspected[number] = now_s
        return ()

    def _renew(self, events: Stream) -> tuple[Problem, ...]:
        log.warning("events-renewed")
        events.renew()
        return (problem("vpn.events-lost"),)

    def _reload_settings(self) -> None:
        if not self._reload:
            return
        try:
            self._charon.reload_settings()
        except CharonRefusedError as error:
            # It goes on with its old ones, is looked after as ever, and told again by the next look.
            self._refused = str(error)[:400]
            return
        self._reload, self._refused = False, ""
        log.info("charon-settings-reloaded")

    def _adopt(self) -> None:
        self._need_restart = ()
        self._reload, self._refused = False, ""  # another one reads its settings when it starts
        self._suspected.clear()
        if self._pid is not None:
            self._reload = self._process.refresh()
            self._need_restart = self._process.need_restart()
