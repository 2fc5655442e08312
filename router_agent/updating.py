"""Firmware and modules in the agent: puts `update` together for this machine; on any other machine it does nothing.

The guard of a trial watches ``<runtime>/agent.alive``: it is touched when the agent's loop has gone round.
"""

import logging
import secrets
import time
from collections.abc import Callable

from linux.runner import Runner
from router_agent.options import Options
from router_agent.problems import Problem
from router_agent.report.documents import Answer
from router_agent.report.firmware import FirmwareReport, ModuleReport
from router_agent.settings.keys import Settings
from router_agent.update import appliance
from router_agent.update.bootstore import BootStore
from router_agent.update.child import ChildProcesses
from router_agent.update.driver import UpdateDriver
from router_agent.update.essential import EssentialDevices
from router_agent.update.journal import Journal
from router_agent.update.marks import TrialLog
from router_agent.update.module_keeper import ModuleKeeper
from router_agent.update.module_store import ModuleStore
from router_agent.update.module_use import ModuleUse
from router_agent.update.ports import Scene

_log = logging.getLogger(__name__)

ALIVE = "agent.alive"
#: Seconds between two touches: the guard looks every five.
ALIVE_S = 2.0


class Updating:
    """Times are monotonic seconds. ``agent``: its version; ``modems`` takes what a module says of modems."""

    def __init__(
        self,
        options: Options,
        site: str,
        runner: Runner,
        *,
        agent: str,
        modems: Callable[[dict[str, tuple[str, ...]]], None],
        now: float,
    ) -> None:
        self._alive = options.runtime / ALIVE
        self._alive_at = now
        self._driver: UpdateDriver | None = None
        self._modules: ModuleKeeper | None = None
        self._neighbours = EssentialDevices(options.lan)
        self._use = ModuleUse(site, modems)
        found = appliance.running()
        if found is None:
            return
        running, booted = found
        workshop = ChildProcesses(options.state, ("--state", str(options.state), "--runtime", str(options.runtime)))
        self._driver = UpdateDriver(
            running,
            site,
            Journal(options.state),
            boot=appliance.LinuxBoot(booted, BootStore()),
            machine_port=appliance.LinuxMachine(running, options.state, runner, options.reboot),
            workshop=workshop,
            neighbours=self._neighbours,
            left=TrialLog(options.state),
            token=lambda: secrets.token_hex(8),
        )
        store = ModuleStore(options.state / "modules")
        self._modules = ModuleKeeper(store, workshop, self._use, agent=agent, release=running.version, now=now)

    @property
    def on_trial(self) -> bool:
        """Whether a release is on trial, or about to be: nothing else is tried meanwhile."""
        return self._driver is not None and self._driver.on_trial

    def start(self, now: float) -> None:
        """Find out where an update stands; count this start for modules that have yet to prove themselves."""
        if self._driver is not None and self._modules is not None:
            self._modules.start()
            self._driver.start(now, time.time())

    def configure(self, settings: Settings) -> None:
        """Settings that are in force from now on."""
        self._neighbours.configure(settings.lan.essential)

    def heard(self, answer: Answer, now: float) -> None:
        """The cloud has answered a heartbeat."""
        if self._driver is not None and self._modules is not None:
            self._driver.heard(answer.firmware, now)
            self._modules.heard(answer.repository, now)

    def step(self, now: float, scene: Scene, roll: float) -> bool:
        """One look at everything; True: there is news for the cloud."""
        if self._driver is None or self._modules is None:
            return False
        before = (self._driver.state.stage, self.problems())
        if not self._modules.busy:  # one step at a time: they share what is believed of the repository
            self._driver.step(now, scene, roll)
        free = not self._driver.busy and not self._driver.on_trial
        changed = self._modules.step(now, scene, roll, free=free)
        self._use.step(now)
        return changed or before != (self._driver.state.stage, self.problems())

    def gone_round(self, now: float) -> None:
        """The agent's loop has gone round."""
        if self._driver is not None and now >= self._alive_at:
            self._alive_at = now + ALIVE_S
            try:
                self._alive.touch()
            except OSError as error:
                _log.error("%s: %s", self._alive, error)

    def stop(self) -> None:
        """The agent ends; an update goes on from its journal."""
        if self._driver is not None and self._modules is not None:
            self._driver.stop()
            self._modules.stop()
        self._use.stop()

    def problems(self) -> tuple[Problem, ...]:
        """What stands in the way of updates and modules as such, and what plugins say."""
        if self._driver is None or self._modules is None:
            return ()
        return (*self._driver.problems(), *self._modules.problems(), *self._use.problems())

    def firmware(self) -> FirmwareReport | None:
        """For the heartbeat; None: this machine's firmware is not ours to change."""
        return None if self._driver is None else self._driver.report()

    def modules(self) -> tuple[ModuleReport, ...]:
        """For the heartbeat."""
        return () if self._modules is None else self._modules.reports()
