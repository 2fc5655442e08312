"""Drives an update, one step a tick: the journal before each act, long work in children, the boot state last.

Owns what a start finds and when a trial begins; `preparation` owns what is before, `trial` what is after. Everything
that is done to the machine goes through a port (ports.py), so that all of this runs on a simulated machine whose power
fails anywhere.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer, FirmwareReport
from router_agent.update import machine, returned
from router_agent.update.book import Book
from router_agent.update.journal import GUARD_SLACK_S, Journal
from router_agent.update.machine import BootSight, Event, Stage, Trial, UpdateState
from router_agent.update.ports import Boot, Machine, Marks, Neighbours, Running, Scene
from router_agent.update.preparation import Preparation
from router_agent.update.restart import Restart
from router_agent.update.trial import TrialRun
from router_agent.update.work import Workshop

_log = logging.getLogger(__name__)

#: Seconds until a boot state that could not be read is read again.
LOOK_AGAIN_S = 60.0

#: An offer counts for a restart only if the cloud has repeated it since the start and within this time, in seconds.
OFFER_FRESH_S = 7200.0

#: Stages in which it matters who answers on the LAN.
_ASKING = (Stage.ASSEMBLED, Stage.INSTALLING, Stage.INSTALLED, Stage.TRIAL)


class UpdateDriver:
    """``token`` makes a trial's id. ``now`` everywhere: monotonic seconds, which is since the boot."""

    def __init__(
        self,
        running: Running,
        site: str,
        journal: Journal,
        *,
        boot: Boot,
        machine_port: Machine,
        workshop: Workshop,
        neighbours: Neighbours,
        left: Marks,
        token: Callable[[], str],
    ) -> None:
        self._running = running
        self._boot = boot
        self._neighbours = neighbours
        self._marks = left
        self._token = token
        self._book = Book(journal)
        self._restart = Restart(machine_port.reboot)
        self._preparation = Preparation(
            running,
            site,
            self._book,
            boot=boot,
            machine_port=machine_port,
            workshop=workshop,
            neighbours=neighbours,
        )
        self._trial: TrialRun | None = None
        self._sight: BootSight | None = None
        self._blind: Problem | None = None
        self._look_at = 0.0
        self._offered_at: float | None = None

    @property
    def state(self) -> UpdateState:
        """Where the update stands."""
        return self._book.state

    @property
    def on_trial(self) -> bool:
        """Whether this boot is a trial, or a restart is at hand: nothing else may be tried now."""
        return self._book.state.stage is Stage.TRIAL or self._restart.wanted

    @property
    def busy(self) -> bool:
        """Whether a step of the update runs."""
        return self._preparation.busy

    def start(self, now: float, wall: float) -> None:
        """Find out where things stand, and put right what was interrupted. ``wall``: seconds since the epoch."""
        self._book.at = wall
        self._book.load()
        self._look(now)

    def heard(self, wanted: FirmwareOffer | None, now: float) -> None:
        """The cloud has answered a heartbeat, with this offer or none."""
        if self._sight is None:
            return
        self._offered_at = None if wanted is None else now
        state = self._book.state
        after = self._wish(wanted)
        if after is state:
            return
        if after.stage is state.stage and machine.is_same(state.offer, wanted):
            self._preparation.take_terms(state.offer, after.offer)
        else:
            self._preparation.renew()
        before, after = self._book.state, self._wish(wanted)
        if self._book.enter(after, now):
            _log.info("update: %s, was %s: %s", after.stage.value, before.stage.value, wanted and wanted.release)

    def _wish(self, wanted: FirmwareOffer | None) -> UpdateState:
        state, at = self._book.state, self._book.at
        if wanted is None:
            return machine.withdraw(state, at=at)
        return machine.offer(state, wanted, running_counter=self._running.counter, at=at)

    def step(self, now: float, scene: Scene, roll: float) -> None:
        """One look at where the update is, and what follows from it. ``roll`` spreads what is tried again."""
        self._book.at = scene.clock.timestamp()
        if self._sight is None:
            if now >= self._look_at:
                self._look(now)
            return
        stage = self._book.state.stage
        if stage in _ASKING:
            self._neighbours.step(now)
        else:
            self._neighbours.rest()
        writable = self._book.writable(now)
        if writable:
            self._tidy(now)
        if self._restart.wanted:
            self._restart.step(now)
        elif self._trial is not None:
            if self._trial.step(now, scene, self._neighbours.silent(now)):
                self._trial = None
                self._preparation.clear_payload()
        elif stage in machine.PREPARING and writable:
            trial = self._preparation.step(now, scene, roll)
            if trial is not None:
                self._try(trial, now)
        if self._book.state.stage is not stage:
            self._see(now)

    def stop(self) -> None:
        """The agent ends: so does what it had started. It goes on from the journal."""
        self._preparation.drop()

    def problems(self) -> tuple[Problem, ...]:
        """What stands in the way of updates as such; what concerns one release is in the report."""
        found = [problem for problem in (self._blind, self._book.trouble) if problem is not None]
        sight = self._sight
        if sight is not None and sight.running != sight.primary and not self.on_trial:
            found.append(Problem("agent.update-other-slot", {"slot": sight.running, "first": sight.primary}))
        return tuple(found)

    def report(self) -> FirmwareReport:
        """For the heartbeat."""
        state, offer = self._book.state, self._book.state.offer
        waiting = self._preparation.waiting if self._trial is None else self._trial.waiting
        if self._restart.wanted and self._trial is None:
            waiting = Problem("agent.update-restarting")
        return FirmwareReport(
            hardware=self._running.hardware,
            version=self._running.version,
            counter=self._running.counter,
            slot=self._running.slot,
            stage=state.stage.value,
            release="" if offer is None else offer.release,
            rollout="" if offer is None else offer.rollout,
            progress_pct=self._preparation.progress_pct,
            bytes_fetched=self._preparation.fetched_bytes,
            since_s=max(0.0, self._book.at - state.entered_at),
            problem=(waiting if state.stage in (*machine.PREPARING, Stage.TRIAL) else None) or state.problem,
        )

    def _look(self, now: float) -> None:
        """What a start finds, and what follows from it."""
        before = self._book.state
        trial = before.trial if before.stage is Stage.TRIAL else None
        if not self._see(now) or self._sight is None:
            return
        sight = self._sight
        left = () if trial is None else self._marks.read(trial.trial_id)
        version = "" if before.facts is None else before.facts.version
        why = returned.why(trial, left, self._boot.reset_cause(), version)
        after = machine.recover(before, sight, why, running_counter=self._running.counter, at=self._book.at)
        if after is not before:
            _log.warning("update: %s, was %s: %s", after.stage.value, before.stage.value, after.problem)
            self._book.happened(after, now)
        if machine.on_trial(after, sight):
            assert after.trial is not None  # noqa: S101 - on_trial says so
            self._trial = TrialRun(after.trial, self._book, self._boot, self._marks, self._restart, now=now)
        elif after.stage is Stage.TRIAL or (
            trial is not None and after.stage is Stage.RETURNED and self._astray(trial)
        ):
            self._restart.ask(now)
        elif trial is not None and after.stage in (Stage.COMMITTED, Stage.RETURNED):
            self._preparation.clear_payload()

    def _tidy(self, now: float) -> None:
        """Take a trial away that nobody knows (any more). Only once the journal says what became of it: until then the
        boot loader's note keeps it from being booted twice."""
        sight = self._sight
        if sight is None or not machine.leftover(self._book.state, sight):
            return
        _log.warning("trial %s of slot %s is over: taken away", sight.trial_id, sight.trial)
        try:
            self._boot.abandon()
        except StateError as error:
            self._go_blind(error, now)
        else:
            self._see(now)

    def _astray(self, trial: Trial) -> bool:
        """Whether the tried slot runs on though its trial is no more: the guard's end is near, the old one waits."""
        return self._sight is not None and self._sight.running == trial.target != self._sight.primary

    def _try(self, planned: Trial, now: float) -> None:
        """Set up the trial and restart."""
        state, sight = self._book.state, self._sight
        if self._offered_at is None or now - self._offered_at > OFFER_FRESH_S or sight is None:
            self._preparation.waiting = Problem("agent.update-not-confirmed")
            return
        trial = replace(planned, trial_id=self._token(), begun_in=sight.boot_id)
        try:
            self._marks.clear()
        except OSError as error:
            _log.warning("marks of the trial before: %s", error)
        entered = machine.move(state, Event.TRY, at=self._book.at)
        if not self._book.enter(replace(entered, trial=trial, tries=state.tries + 1), now):
            return
        try:
            self._boot.begin_trial(trial.target, trial.trial_id, trial.deadline_s + GUARD_SLACK_S)
        except StateError as error:
            untried = machine.move(self._book.state, Event.UNTRIED, at=self._book.at)
            self._book.happened(replace(untried, trial=None), now)
            self._go_blind(error, now)
            return
        _log.warning("update: restarting to try slot %s, trial %s", trial.target, trial.trial_id)
        self._restart.ask(now)

    def _see(self, now: float) -> bool:
        try:
            self._sight = self._boot.sight()
        except StateError as error:
            self._go_blind(error, now)
            return False
        self._blind = None
        return True

    def _go_blind(self, error: StateError, now: float) -> None:
        """The boot state cannot be read or written: no update until it can."""
        if self._blind is None:
            _log.error("boot state: %s", error)
        self._blind = Problem.of(error)
        self._sight = None
        self._look_at = now + LOOK_AGAIN_S
