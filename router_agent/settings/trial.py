"""Runs a trial: journal, act, verify, confirm or go back. Owns the settings' state.

A state directory that cannot be written starts no trial: without the journal a power cut could not be undone.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.settings import machine
from router_agent.settings.journal import Journal
from router_agent.settings.keys import Settings, parse
from router_agent.settings.machine import SettingsState, Stage, Version

_log = logging.getLogger(__name__)

#: Seconds before a state that could not be written is written again.
WRITE_AGAIN_S = 10.0


class SettingsTrial:
    """``apply`` makes settings effective; it is called with what is in force at `start` and at each change."""

    def __init__(self, journal: Journal, apply: Callable[[Settings, float], None]) -> None:
        self._journal = journal
        self._apply = apply
        self._state = SettingsState()
        self._saved: SettingsState | None = None
        self._applied_at = 0.0
        self._write_at = 0.0
        self._trouble: Problem | None = None
        self._unreadable = False

    @property
    def state(self) -> SettingsState:
        """What is in force, on trial, undone."""
        return self._state

    @property
    def trying(self) -> bool:
        """Whether a trial runs: the cloud is to be told soon."""
        return self._state.stage is Stage.TRYING

    @property
    def in_order(self) -> bool:
        """Whether the settings were read, understood and can be kept. A new release must do so with those it finds."""
        return self._trouble is None and not self._unreadable

    @property
    def applied_at(self) -> float:
        """When the settings in force were applied, monotonic seconds."""
        return self._applied_at

    def problems(self) -> tuple[Problem, ...]:
        """What stands in the way of keeping the state."""
        return () if self._trouble is None else (self._trouble,)

    def start(self, now: float) -> None:
        """Read the state, undo a trial that was interrupted, apply what is in force."""
        try:
            self._saved = self._journal.load()
        except StateError as error:
            _log.error("the settings cannot be read, starting with the bundle's: %s", error)
            self._trouble = Problem.of(error)
        self._state = machine.recover(self._saved or SettingsState())
        if self._state.problem is not None:
            _log.warning("settings: %s", self._state.problem)
        self._keep(now)
        self._put_in_force(now)

    def offer(self, version: Version, confirm_s: float, now: float) -> None:
        """The cloud wants these settings. Begins a trial when they are new, well-formed and can be journalled."""
        before = self._state
        after = machine.offer(before, version, confirm_s)
        if after is before:
            return
        if after.stage is Stage.STORED:
            after = machine.begin(after)
            if not self._write(after, now):
                return  # unchanged: the next heartbeat offers it again
            self._state = after
            _log.info("settings version %d on trial for %.0f s", version.number, after.confirm_s)
            self._put_in_force(now)
        else:
            self._state = after
            _log.warning("settings version %d refused: %s", version.number, after.problem)
            self._keep(now)

    def step(self, now: float, *, probed_at: float | None, heartbeat_began_at: float | None) -> None:
        """Confirm or undo the trial when its time has come; write what could not be written before."""
        if self._state.stage is Stage.TRYING:
            applied_at = self._applied_at
            if machine.proven(applied_at=applied_at, probed_at=probed_at, heartbeat_began_at=heartbeat_began_at):
                self._state = machine.confirm(self._state)
                self._unreadable = False
                _log.info("settings version %d confirmed", self._state.current.number)
                self._keep(now)
            elif now - applied_at > self._state.confirm_s:
                self._state = machine.cut_off(self._state)
                _log.warning("settings undone: %s", self._state.problem)
                self._keep(now)
                self._put_in_force(now)
        if self._state != self._saved and not self._unreadable and now >= self._write_at:
            self._keep(now)

    def _put_in_force(self, now: float) -> None:
        self._applied_at = now
        try:
            settings = parse(self._state.in_force.values)
        except ValueError:
            # Written by another version of the agent, or damaged: the bundle's settings reach the cloud. What is on the
            # disk stays: a release on trial goes back to the agent that wrote it.
            self._state = replace(self._state, current=Version(0))
            self._unreadable = True
            settings = Settings()
        self._apply(settings, now)

    def _keep(self, now: float) -> None:
        self._write(self._state, now)

    def _write(self, state: SettingsState, now: float) -> bool:
        if state == self._saved:
            return True
        try:
            self._journal.save(state)
        except StateError as error:
            if self._trouble is None:
                _log.error("the settings cannot be kept: %s", error)
            self._trouble = Problem.of(error)
            self._write_at = now + WRITE_AGAIN_S
            return False
        self._saved = state
        self._trouble = None
        return True
