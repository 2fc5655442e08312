"""A boot on trial: health is watched, marks are left, and it ends in a commit or in a restart to the old slot."""

import logging
from collections.abc import Mapping

from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.update import health, machine, marks
from router_agent.update.book import Book
from router_agent.update.health import Health, Terms, Verdict, Vitals
from router_agent.update.machine import Event, Trial
from router_agent.update.ports import Boot, Marks, Scene, listed
from router_agent.update.restart import Restart

_log = logging.getLogger(__name__)

#: What is missing is written down when it changes, and not more often than this, in seconds.
MARK_S = 20.0


class TrialRun:
    """The trial that this boot is."""

    def __init__(self, trial: Trial, book: Book, boot: Boot, left: Marks, restart: Restart, *, now: float) -> None:
        self._trial = trial
        self._book = book
        self._boot = boot
        self._marks = left
        self._restart = restart
        self._terms = Terms(trial.hold_s, trial.deadline_s, frozenset(trial.silent))
        self._health = Health(seen_at=now)
        self._noted = ""
        self._note_at = now
        _log.warning("this boot is trial %s of slot %s, until %.0f s", trial.trial_id, trial.target, trial.deadline_s)
        self._mark(marks.AGENT, now, {})

    @property
    def waiting(self) -> Problem | None:
        """What it waits for; None: for time to pass."""
        if self._restart.wanted:
            return Problem("agent.update-returning", {"missing": listed(self._health.missing)})
        if self._health.missing:
            return Problem("agent.update-trial-missing", {"missing": listed(self._health.missing)})
        return self._excused()

    def step(self, now: float, scene: Scene, silent: frozenset[str]) -> bool:
        """One look; True: the release is committed."""
        vitals = Vitals(
            tunnel_up=scene.tunnel_up,
            heartbeat_at=scene.heartbeat_at,
            heartbeat_s=scene.heartbeat_s,
            configured=scene.configured,
            silent=silent,
        )
        self._health = health.look(self._health, vitals, self._terms, up_s=now)
        missing = listed(self._health.missing)
        if missing != self._noted and now >= self._note_at:
            self._noted, self._note_at = missing, now + MARK_S
            _log.warning("trial: missing: %s", missing or "nothing")
            self._mark(marks.MISSING, now, {"missing": missing})
        match health.verdict(self._health, self._terms, up_s=now):
            case Verdict.COMMIT:
                return self._commit(now)
            case Verdict.RETURN:
                _log.error("trial: going back to slot %s, missing: %s", self._trial.origin, missing)
                self._mark(marks.RETURNING, now, {"missing": missing})
                self._restart.ask(now)
            case Verdict.HOLD:
                pass
        return False

    def _commit(self, now: float) -> bool:
        try:
            self._boot.commit(self._trial.target)
        except StateError as error:
            # The next tick tries again; a boot state that cannot be written at all ends in the guard's reset.
            if self._book.trouble is None:
                _log.error("trial: cannot be committed: %s", error)
            self._book.trouble = Problem.of(error)
            return False
        _log.warning("trial %s is healthy and kept", self._trial.trial_id)
        after = machine.move(self._book.state, Event.COMMIT, at=self._book.at, problem=self._excused())
        self._book.happened(after, now)
        return True

    def _excused(self) -> Problem | None:
        """Devices that did not answer before either are no proof of anything: that is said, not hidden."""
        devices = listed(self._terms.excused)
        return Problem("agent.update-devices-excused", {"devices": devices}) if devices else None

    def _mark(self, what: str, now: float, params: Mapping[str, str]) -> None:
        try:
            self._marks.leave(self._trial.trial_id, what, at=now, **params)
        except OSError as error:
            _log.warning("mark of the trial: %s", error)
