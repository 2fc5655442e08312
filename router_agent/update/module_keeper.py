"""Modules in the agent's loop: when to look for new ones, whether those in use have proven themselves, who is told.

A look runs as a step (module_step.py) when the cloud says that the repository has changed, and once a day. It gives way
to a firmware update.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from router_agent.backoff import Backoff
from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.report.firmware import MODULES_MAX, ModuleReport
from router_agent.update import modules
from router_agent.update.judge import POLITE_BYTES_S
from router_agent.update.module_store import ModuleStore
from router_agent.update.modules import PROVEN_S, ModuleStage, ModuleState
from router_agent.update.ports import Scene
from router_agent.update.work import CRASHED, Child, Done, Failed, Step, Workshop

_log = logging.getLogger(__name__)

#: Between looks that nothing asked for, in seconds; the first comes this long after the start at the earliest.
LOOK_S = 86_400.0
FIRST_S = 120.0
AGAIN = Backoff(60, 7200)

#: A look that takes longer than this is ended, in seconds: firmware waits for it meanwhile. What has come stays.
LOOK_MOST_S = 900.0

#: A data budget with less than this left is not spent on modules, in bytes.
LEFT_LEAST_BYTES = 16 << 20


class ModuleKeeper:
    """``use`` makes a module's content effective, or takes it away (path None): kind, name, path. ``agent``: its
    version; ``release``: that of the image."""

    def __init__(
        self,
        store: ModuleStore,
        workshop: Workshop,
        use: Callable[[str, str, Path | None], None],
        *,
        agent: str,
        release: str,
        now: float,
    ) -> None:
        self._store = store
        self._workshop = workshop
        self._use = use
        self._agent = agent
        self._release = release
        self._yanked: Problem | None = None
        self._began = self._used_at = now
        self._child: Child | None = None
        self._look_at = now + FIRST_S
        self._looked_at = now
        self._repository: int | None = None
        self._failures = 0
        self._states: dict[str, ModuleState] = {}
        self._trouble: Problem | None = None

    @property
    def busy(self) -> bool:
        """Whether a look runs."""
        return self._child is not None

    def start(self) -> None:
        """Count this start for those that have yet to prove themselves, take back what has failed, use what is in
        use."""
        try:
            self._store.mend()
            for name, before in self._store.states().items():
                after = modules.started(before)
                if after is before:
                    continue
                # Counted on the disk before it is used: a start that ends in a crash has been counted.
                self._store.use(after)
                if after.stage is ModuleStage.RETURNED:
                    _log.error("module %s %s is taken back: the agent did not come up with it", name, after.version)
        except StateError as error:
            self._trouble = Problem.of(error)
        self._states = self._store.states()
        for state in self._states.values():
            self._apply(state)

    def heard(self, repository: int | None, now: float) -> None:
        """What the cloud says of the repository's version."""
        if repository is not None and repository != self._repository:
            self._repository = repository
            self._look_at = min(self._look_at, max(now, self._began + FIRST_S / 4))

    def step(self, now: float, scene: Scene, roll: float, *, free: bool) -> bool:
        """One look. ``free``: no firmware update is at work. True: something changed, the cloud is to be told."""
        if self._child is not None:
            return self._follow(now, roll)
        if any(state.stage is ModuleStage.INSTALLED for state in self._states.values()):
            return self._prove(now, scene)
        spent = scene.metered and scene.month_left_bytes is not None and scene.month_left_bytes < LEFT_LEAST_BYTES
        if free and now >= self._look_at and scene.heard_at is not None and not spent:
            request: dict[str, object] = {
                "agent": self._agent,
                "skew_s": scene.skew_s,
                "tunnel_up": scene.tunnel_up,
                "rate_bytes_s": POLITE_BYTES_S if scene.metered else 0,
            }
            self._looked_at = now
            try:
                self._child = self._workshop.start(Step.MODULES, request)
            except OSError as error:
                _log.warning("modules: %s", error)
                self._look_at = now + AGAIN.delay_s(1, roll)
        return False

    def stop(self) -> None:
        """The agent ends."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def problems(self) -> tuple[Problem, ...]:
        """What stands in the way of modules as such, and that the release that runs was taken back."""
        return tuple(problem for problem in (self._trouble, self._yanked) if problem is not None)

    def reports(self) -> tuple[ModuleReport, ...]:
        """For the heartbeat."""
        found = sorted(self._states.values(), key=lambda state: state.name)
        return tuple(
            ModuleReport(state.name, state.version, state.stage.value, state.problem) for state in found[:MODULES_MAX]
        )

    def _follow(self, now: float, roll: float) -> bool:
        assert self._child is not None  # noqa: S101 - the caller looked
        events = self._child.events()
        if now - self._looked_at > LOOK_MOST_S and not any(isinstance(event, Done) for event in events):
            self._child.kill()
            events = (CRASHED,)
        for event in events:
            match event:
                case Done(result):
                    self._failures, self._trouble = 0, None
                    self._note_yanked(result.get("running_yanked"))
                    self._look_at = now + LOOK_S * (0.9 + 0.2 * roll)
                case Failed(_, problem):
                    _log.warning("modules: %s", problem)
                    self._failures, self._trouble = self._failures + 1, problem
                    self._look_at = now + AGAIN.delay_s(self._failures, roll)
                case _:
                    continue
            self._child = None
            return self._take_up(now)
        return False

    def _note_yanked(self, reason: object) -> None:
        params = {"version": self._release, "reason": str(reason)[:150]}
        self._yanked = None if reason is None else Problem("agent.update-running-yanked", params)

    def _take_up(self, now: float) -> bool:
        """What a step has left on the disk."""
        before, self._states = self._states, self._store.states()
        for name, state in self._states.items():
            if name not in before or before[name].current != state.current:
                _log.info("module %s: %s in use", name, state.current or "nothing")
                self._used_at = now
                self._began_with(state)
        return before != self._states

    def _began_with(self, state: ModuleState) -> None:
        # The first use counts as a start: if the agent does not survive it, the next start knows.
        after = modules.started(state)
        if after is not state:
            try:
                self._store.keep(after)
                self._states[state.name] = after
            except StateError as error:
                self._trouble = Problem.of(error)
        self._apply(state)

    def _prove(self, now: float, scene: Scene) -> bool:
        if now - self._used_at < PROVEN_S or scene.heard_at is None or scene.heard_at < self._used_at:
            return False
        for name, before in self._states.items():
            after = modules.proven(before)
            if after is before:
                continue
            try:
                self._store.use(after)
            except StateError as error:
                self._trouble = Problem.of(error)
                self._used_at = now  # not at every tick
                return False
            self._states[name] = after
        return True

    def _apply(self, state: ModuleState) -> None:
        path = self._store.content(state.name) if state.current else None
        try:
            self._use(state.kind, state.name, path)
        except Exception:  # whatever a module's content brings about, the others go on
            _log.exception("module %s", state.name)
