"""From an offer to a slot that is ready to be tried: children do the work, the judge opens each gate.

Whatever fails on the way is tried again, later and later; what cannot be for this router is refused. Nothing here ever
touches the slot that runs.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from router_agent.backoff import Backoff
from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer
from router_agent.update import judge, machine, window
from router_agent.update.book import Book
from router_agent.update.health import deadline_s
from router_agent.update.journal import parse_facts
from router_agent.update.judge import Circumstances, Device, Refuse, Verdict, Wait
from router_agent.update.machine import Event, Stage, Trial, UpdateState
from router_agent.update.ports import Boot, Machine, Neighbours, Running, Scene
from router_agent.update.work import CRASHED, Child, Done, Failed, Fault, Progress, Step, Workshop

_log = logging.getLogger(__name__)

#: Seconds between looks at the device.
DEVICE_S = 10.0

#: After failures of the line, the cloud or the installer.
AGAIN = Backoff(30, 1800)

#: An answer within so many heartbeat intervals and this long besides means that the cloud hears us.
HEARD_INTERVALS = 3
HEARD_SLACK_S = 60.0

#: A slot that could not be written so often is broken, or the bundle is.
INSTALLS_MAX = 3

#: What has come is noted so often, in bytes: a restart must not make a metered line look dearer than it is.
NOTE_BYTES = 4 << 20

#: So long a trial waits for essential devices none of which answers, in seconds: two nights' windows, and the day
#: between them. A site whose devices are off for longer gets its release without them; who is silent is reported.
MISSED_MOST_S = 36 * 3600.0

#: A delta whose assembly was killed so often needs more memory than there is, whatever was announced.
CRASHES_MAX = 3


class Preparation:
    """``site``: told to steps, permits are for sites."""

    def __init__(
        self,
        running: Running,
        site: str,
        book: Book,
        *,
        boot: Boot,
        machine_port: Machine,
        workshop: Workshop,
        neighbours: Neighbours,
    ) -> None:
        self._running = running
        self._target = "B" if running.slot == "A" else "A"
        self._site = site
        self._book = book
        self._boot = boot
        self._machine = machine_port
        self._workshop = workshop
        self._neighbours = neighbours
        self._child: Child | None = None
        self._step = Step.REFRESH
        self._progress = Progress(0, 0)
        self._before_bytes = 0
        self._failures = 0
        self._again_at = 0.0
        self._device: Device | None = None
        self._device_at = float("-inf")
        #: Since when a trial has waited for devices; how much of the fetch that runs is on the meter; its pace.
        self._missed_since: float | None = None
        self._counted_bytes = 0
        self._paced_metered = False
        self.waiting: Problem | None = None

    @property
    def busy(self) -> bool:
        """Whether a step runs."""
        return self._child is not None

    @property
    def progress_pct(self) -> float | None:
        """Of what travels; None: nothing travels."""
        if self._book.state.stage is not Stage.FETCHING or not self._progress.total:
            return None
        return 100.0 * self._progress.done / self._progress.total

    @property
    def fetched_bytes(self) -> int:
        """Over the lines so far, for this release."""
        if self._child is not None and self._step is Step.FETCH:
            return self._before_bytes + self._progress.travelled
        return self._book.state.fetched_bytes

    def drop(self) -> None:
        """End what runs: the agent stops, or what it was for is over."""
        if self._child is not None:
            state = self._travelled()
            self._child.kill()
            self._child = None
            self._book.state = state
        self._counted_bytes = 0
        self._progress = replace(self._progress, travelled=0)

    def take_terms(self, before: FirmwareOffer | None, wanted: FirmwareOffer | None) -> None:
        """The same release on other terms. What runs goes on, unless it was begun on what has changed: a rollout that
        paces its routers changes their rate with every heartbeat, and a slot takes longer than that to write."""
        if before is None or wanted is None:
            return
        paced = self._step is Step.FETCH and before.rate_bytes_s != wanted.rate_bytes_s
        asked = self._step is Step.REFRESH and before.permit != wanted.permit
        if paced or asked:
            self.drop()
            self._again_at = 0.0

    def renew(self) -> None:
        """Another release, or none: old waits count no more."""
        self.drop()
        self.waiting = None
        self._missed_since = None
        self._failures, self._again_at = 0, 0.0

    def step(self, now: float, scene: Scene, roll: float) -> Trial | None:
        """One look. The answer is the trial that may begin now: all gates are open."""
        device = self._known_device(now)
        if device is None:
            return None
        for event in () if self._child is None else self._child.events():
            self._take(event, device, now, roll, metered=scene.metered)
        if self._child is not None and self._step is Step.FETCH and self._paced_metered != scene.metered:
            self.drop()  # it goes on at the other line's pace
        if self._book.state.stage not in machine.PREPARING:
            return None
        verdict = self._verdict(device, scene, now)
        if isinstance(verdict, Refuse):
            self._refuse(verdict.problem, now)
        elif isinstance(verdict, Wait):
            if self.waiting is None or verdict.problem.key != self.waiting.key:
                _log.info("update waits: %s", verdict.problem)
            self.waiting = verdict.problem
            if self._book.state.stage is Stage.FETCHING:
                self.drop()  # the gate is for every byte
        elif self._child is None and now >= self._again_at:
            return self._advance(device, scene, now, roll)
        return None

    def _verdict(self, device: Device, scene: Scene, now: float) -> Verdict:
        state = self._book.state
        facts, offer = state.facts, state.offer
        if facts is None or offer is None:
            return judge.Go()
        match state.stage:
            case Stage.JUDGED | Stage.FETCHING:
                if state.stage is Stage.FETCHING and self._step is Step.ASSEMBLE:
                    return judge.Go()  # everything is here
                have = self._progress.done if self._progress.total else state.arrived_bytes
                about = self._circumstances(scene, now)
                full = state.full_only or (state.stage is Stage.JUDGED and judge.needs_full(facts, device))
                spent = state.metered_bytes
                return judge.fetching(
                    facts, device, offer, about, arrived_bytes=have, full_only=full, metered_bytes=spent
                )
            case Stage.ASSEMBLED:
                return judge.installing(facts, device)
            case Stage.INSTALLED:
                self._note_missed(now)
                return judge.trying(facts, device, offer, self._circumstances(scene, now))
            case _:
                return judge.Go()

    def _note_missed(self, now: float) -> None:
        """Since when nobody answers who is asked, without a break."""
        if not self._neighbours.known(now) or not self._neighbours.all_silent(now):
            self._missed_since = None
        elif self._missed_since is None:
            self._missed_since = now

    def _circumstances(self, scene: Scene, now: float) -> Circumstances:
        patience_s = HEARD_INTERVALS * scene.heartbeat_s + HEARD_SLACK_S
        return Circumstances(
            metered=scene.metered,
            month_left_bytes=scene.month_left_bytes,
            minute=window.minute_of_day(scene.clock, scene.timezone),
            window=scene.settings.window,
            settings_trial=scene.settings_trial,
            certificate_trial=scene.certificate_trial,
            tunnel_down_s=0.0 if scene.tunnel_up else max(scene.tunnel_down_s, 0.001),
            cloud_heard=scene.heard_at is not None and now - scene.heard_at <= patience_s,
            devices_known=self._neighbours.known(now),
            devices_missed=self._missed_since is not None and now - self._missed_since < MISSED_MOST_S,
            visitors=scene.visitors,
        )

    def _advance(self, device: Device, scene: Scene, now: float, roll: float) -> Trial | None:
        """The next act of this stage."""
        if not self._failures:
            self.waiting = None
        match self._book.state.stage:
            case Stage.OFFERED:
                self._start(Step.REFRESH, scene, now, roll)
            case Stage.JUDGED:
                self._begin_fetching(device, now)
            case Stage.FETCHING:
                self._start(Step.ASSEMBLE if self._step is Step.ASSEMBLE else Step.FETCH, scene, now, roll)
            case Stage.ASSEMBLED:
                self._clear_slot(now, roll)
            case Stage.INSTALLING:
                self._start(Step.VERIFY if self._step is Step.VERIFY else Step.INSTALL, scene, now, roll)
            case Stage.INSTALLED:
                return self._trial(now, scene)
            case _:
                pass
        return None

    def _begin_fetching(self, device: Device, now: float) -> None:
        """What travels is settled here: memory comes and goes, and half a delta and half an image make nothing."""
        state = self._book.state
        assert state.facts is not None  # noqa: S101 - holds in this stage
        self._progress, self._step = Progress(0, 0), Step.FETCH
        full = state.full_only or judge.needs_full(state.facts, device)
        # A payload that was begun before is found again: it is told with the first progress.
        fetching = machine.move(state, Event.FETCH, at=self._book.at)
        self._book.enter(replace(fetching, full_only=full, arrived_bytes=0), now)

    def _clear_slot(self, now: float, roll: float) -> None:
        """Nothing may boot the idle slot from here on, and what runs is what boots."""
        self._step = Step.INSTALL
        try:
            if self._boot.sight().primary != self._running.slot:
                # The boot loader fell back to the slot that runs, and the other one's content is about to go.
                _log.warning("slot %s was not the first and is now: it is what works", self._running.slot)
                self._boot.commit(self._running.slot)
            if self._move(Event.INSTALL, now):
                self._boot.spoil(self._target)
        except StateError as error:
            self._fail(Failed(Fault.LATER, Problem.of(error)), now, roll)

    def _trial(self, now: float, scene: Scene) -> Trial:
        settings = scene.settings
        return Trial(
            trial_id="",
            target=self._target,
            origin=self._running.slot,
            origin_version=self._running.version,
            hold_s=settings.health_s,
            deadline_s=deadline_s(settings.health_s, settings.reach_s),
            silent=tuple(sorted(self._neighbours.silent(now))),
            begun_in="",
        )

    def _take(self, event: Progress | Done | Failed, device: Device, now: float, roll: float, *, metered: bool) -> None:
        if isinstance(event, Progress):
            self._progress = event
            self._meter(metered=metered)
            if self._step is Step.FETCH and event.done - self._book.state.arrived_bytes >= NOTE_BYTES:
                self._book.happened(self._travelled(), now)
            return
        self._book.happened(self._travelled(), now)
        self._progress = replace(self._progress, travelled=0)
        self._counted_bytes = 0
        self._child = None
        if isinstance(event, Failed):
            self._fail(event, now, roll)
            return
        self._failures, self.waiting = 0, None
        match self._step:
            case Step.REFRESH:
                self._judge(event.result, device, now, roll)
            case Step.FETCH:
                self._step = Step.ASSEMBLE
            case Step.ASSEMBLE:
                self._move(Event.ASSEMBLED, now)
            case Step.INSTALL:
                self._step = Step.VERIFY
            case Step.VERIFY:
                self._move(Event.VERIFIED, now)
            case Step.MODULES:
                pass

    def _judge(self, result: Mapping[str, object], device: Device, now: float, roll: float) -> None:
        state = self._book.state
        try:
            facts = parse_facts(result["facts"])
        except (ValueError, KeyError, TypeError):
            self._fail(CRASHED, now, roll)
            return
        assert state.offer is not None  # noqa: S101 - holds in these stages
        verdict = judge.fits(facts, device, state.offer)
        known = replace(state, facts=facts)
        if isinstance(verdict, Refuse):
            _log.warning("update refused: %s", verdict.problem)
            self._book.enter(machine.move(known, Event.REFUSE, at=self._book.at, problem=verdict.problem), now)
        else:
            _log.info("update %s (counter %d) is for this router", facts.version, facts.counter)
            self._book.enter(machine.move(known, Event.ACCEPT, at=self._book.at), now)

    def _fail(self, failed: Failed, now: float, roll: float) -> None:
        state = self._book.state
        _log.warning("update, %s, %s: %s", state.stage.value, failed.fault.value, failed.problem)
        if failed.fault is Fault.REFUSED:
            self._refuse(failed.problem, now)
            return
        self._failures += 1
        self._again_at = now + AGAIN.delay_s(self._failures, roll)
        self.waiting = failed.problem
        if failed == CRASHED and self._step is Step.ASSEMBLE and self._failures >= CRASHES_MAX:
            failed = replace(failed, fault=Fault.FULL)
        if failed.fault is Fault.LOST:
            self._move(Event.LOSE, now)
        elif failed.fault is Fault.FULL and not state.full_only:
            self._step, self._progress, self._again_at = Step.FETCH, Progress(0, 0), now
            self._book.enter(replace(state, full_only=True, arrived_bytes=0), now)
        elif state.stage is Stage.INSTALLING:
            count = state.failures + 1
            if count >= INSTALLS_MAX:
                self._refuse(failed.problem, now)
            else:
                again = machine.move(state, Event.INTERRUPT, at=self._book.at)
                self._book.enter(replace(again, failures=count), now)

    def _refuse(self, problem: Problem, now: float) -> None:
        self.drop()
        if self._move(Event.REFUSE, now, problem):
            _log.warning("update refused: %s", problem)
            self.waiting = None
            self.clear_payload()

    def _move(self, event: Event, now: float, problem: Problem | None = None) -> bool:
        return self._book.enter(machine.move(self._book.state, event, at=self._book.at, problem=problem), now)

    def _start(self, step: Step, scene: Scene, now: float, roll: float) -> None:
        state = self._book.state
        assert state.offer is not None  # noqa: S101 - holds in these stages
        self._step = step
        self._before_bytes = state.fetched_bytes
        self._counted_bytes, self._paced_metered = 0, scene.metered
        request: dict[str, object] = {
            "release": state.offer.release,
            "permit": state.offer.permit,
            "rate_bytes_s": judge.pace(state.offer, metered=scene.metered),
            "site": self._site,
            "full_only": state.full_only,
            "document_sha256": "" if state.facts is None else state.facts.document_sha256,
            "skew_s": scene.skew_s,
            "tunnel_up": scene.tunnel_up,
            "root_hash": "" if state.facts is None else state.facts.root_hash,
            "target": self._target,
        }
        try:
            self._child = self._workshop.start(step, request)
        except OSError as error:
            problem = Problem("agent.update-step-unstarted", {"reason": error.strerror or type(error).__name__})
            self._fail(Failed(Fault.LATER, problem), now, roll)

    def _meter(self, *, metered: bool) -> None:
        """Count what has come since the last word of it, if the line is metered."""
        if self._step is not Step.FETCH:
            return
        if metered:
            more = max(0, self._progress.travelled - self._counted_bytes)
            self._book.state = replace(self._book.state, metered_bytes=self._book.state.metered_bytes + more)
        self._counted_bytes = self._progress.travelled

    def _travelled(self) -> UpdateState:
        """The state with what has come in the step that runs."""
        if self._child is None or self._step is not Step.FETCH:
            return self._book.state
        return replace(self._book.state, fetched_bytes=self.fetched_bytes, arrived_bytes=self._progress.done)

    def _known_device(self, now: float) -> Device | None:
        if now - self._device_at >= DEVICE_S:
            try:
                self._device = self._machine.device()
            except OSError as error:
                _log.warning("device: %s", error)
                return None
            self._device_at = now
        return self._device

    def clear_payload(self) -> None:
        """Give the space back that payload and bundle took."""
        try:
            self._machine.clear_payload()
        except OSError as error:
            _log.warning("payload not cleared away: %s", error)
