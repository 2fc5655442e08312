"""The mobile line as the agent sees it: a thread that drives the modem, gives its interface a route, counts its bytes.

The agent's loop only reads what this thread has published, so a modem that hangs holds nothing up. Without a modem
device (an Ethernet modem, or one that something else dials) it counts bytes only.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

from linux.counters import Counters
from linux.errors import LinuxError
from linux.routes import Route, Routes
from linux.runner import Runner
from router_agent.modem import budget
from router_agent.modem.budget import MIB, Action, BudgetBook, Level, Reading
from router_agent.modem.modem import Modem, ModemOptions, ModemView
from router_agent.modem.pin import PinMemory
from router_agent.modem.ppp import PppProcess
from router_agent.modem.settings import MobileSettings
from router_agent.problems import Problem
from router_agent.report.documents import ModemReport

_log = logging.getLogger(__name__)

#: Seconds between looks at counters and routes, and the least between two steps of the modem.
LOOK_S = 2.0
_STEP_S = 0.05

#: The metric of the default route that the interface gets; `link` moves it when the mobile line is to be used.
_METRIC = 1203
_DEFAULT = ip_network("0.0.0.0/0")

#: Commands by model.
ModemTable = dict[str, tuple[str, ...]]

#: The state of a mobile line without a modem of ours.
_NOT_DRIVEN = "not-driven"


@dataclass(frozen=True, slots=True)
class LineView:
    """What the thread has published. ``lan_shut``: the data are spent, and only the router's own traffic may go on."""

    report: ModemReport | None = None
    problems: tuple[Problem, ...] = ()
    lan_shut: bool = False


class MobileLine:
    """``modem`` None: the interface is counted only. All times are monotonic."""

    def __init__(
        self,
        interface: str,
        modem: ModemOptions | None,
        *,
        state: Path,
        runtime: Path,
        runner: Runner,
        now: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._interface = interface
        self._book = BudgetBook(state, now=now)
        self._clock = clock
        self._settings = MobileSettings()
        self._linked = False
        self._look_at = now
        self._ended = threading.Event()
        self._inbox: queue.SimpleQueue[MobileSettings | str | ModemTable] = queue.SimpleQueue()
        self._hangs_up = False
        self._thread = threading.Thread(target=self._run, name="modem", daemon=True)
        self._view = LineView()
        self._modem: Modem | None = None
        if modem is not None:
            self._modem = Modem(
                modem,
                PinMemory(state),
                PppProcess(runtime, interface),
                runner,
                linked=lambda: self._linked,
                sleep=self._sleep,
            )

    @property
    def view(self) -> LineView:
        """What is known now; any thread."""
        return self._view

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, *, wait_s: float, hang_up: bool) -> None:
        """End the thread; a call goes on for the next agent unless ``hang_up``. A modem that hangs is not waited for
        longer than ``wait_s``."""
        self._hangs_up = hang_up
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def configure(self, settings: MobileSettings) -> None:
        """Settings that are in force from now on."""
        self._inbox.put(settings)

    def use_timezone(self, timezone: str) -> None:
        """The site's time zone, in which months are counted."""
        self._inbox.put(timezone)

    def use_table(self, table: ModemTable) -> None:
        """What modems want to be told first, by model."""
        self._inbox.put(table)

    def _sleep(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def _run(self) -> None:
        with ExitStack() as stack:
            routes, counters = Routes(), Counters()
            stack.callback(routes.close)
            stack.callback(counters.close)
            wait_s = 0.0
            while not self._ended.wait(max(wait_s, _STEP_S)):
                try:
                    wait_s = self._step(routes, counters, time.monotonic())
                except Exception:  # the thread outlives any bug: a line that is down cannot be mended from afar
                    _log.exception("mobile line: internal error")
                    wait_s = LOOK_S
            self._count(counters, time.monotonic())
            self._book.keep(time.monotonic())
            if self._modem is not None:
                self._modem.hang_up() if self._hangs_up else self._modem.close()

    def _step(self, routes: Routes, counters: Counters, now: float) -> float:
        self._take_messages(now)
        wait_s = LOOK_S
        if self._modem is not None:
            roll = random.random()  # noqa: S311 - spreads routers in time, no secret
            wait_s = self._modem.step(now, roll, spent=self._spent(Action.STOP))
            for carried in self._modem.carried():
                self._book.close(carried, now)
        if now >= self._look_at:
            self._look_at = now + (LOOK_S if self._linked else LOOK_S / 4)
            self._count(counters, now)
            self._give_route(routes)
        self._publish(now)
        return min(wait_s, LOOK_S)

    def _take_messages(self, now: float) -> None:
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, str):
                self._book.use_timezone(message)
            elif isinstance(message, dict):
                if self._modem is not None:
                    self._modem.use_table(message)
            else:
                self._settings = message
                if self._modem is not None:
                    self._modem.configure(message, now)

    def _count(self, counters: Counters, now: float) -> None:
        try:
            found = counters.read(self._interface)
        except LinuxError as error:
            _log.warning("mobile line: %s", error)
            return
        reading = None if found is None else Reading(found.epoch, found.received_bytes + found.sent_bytes)
        self._book.look(reading, self._clock(), budget_bytes=self._settings.budget_bytes, now=now)

    def _give_route(self, routes: Routes) -> None:
        """The interface's default route. An Ethernet modem's comes with its address, by DHCP."""
        if self._modem is None:
            return
        try:
            state = next((one for one in routes.interfaces() if one.name == self._interface), None)
            self._linked = state is not None and state.up and any(each.version == 4 for each in state.addresses)
            if self._linked and all(route.interface != self._interface for route in routes.default_routes()):
                routes.replace_route(Route(_DEFAULT, self._interface, metric=_METRIC))
        except LinuxError as error:
            _log.warning("mobile line: %s", error)

    def _spent(self, action: Action) -> bool:
        wanted = self._settings
        used = self._book.ledger.used_bytes
        return wanted.budget_action is action and budget.level(used, wanted.budget_bytes) is Level.SPENT

    def _publish(self, now: float) -> None:
        view = ModemView() if self._modem is None else self._modem.view
        problems = [*(() if self._modem is None else self._modem.problems(now)), *self._budget_problems()]
        ledger = self._book.ledger
        if self._modem is None and not ledger.epoch and not ledger.used_bytes:
            self._view = LineView(None, tuple(problems))
            return  # no mobile line here
        report = ModemReport(
            state=_NOT_DRIVEN if self._modem is None else view.state.value,
            signal_dbm=view.signal_dbm,
            technology=view.operator.technology,
            operator=view.operator.name,
            roaming=view.roaming,
            imei=view.imei,
            registration=view.registration.value,
            data_used_bytes=self._book.ledger.used_bytes,
            data_budget_bytes=self._settings.budget_bytes,
        )
        self._view = LineView(report, tuple(problems), self._spent(Action.TUNNEL_ONLY))

    def _budget_problems(self) -> list[Problem]:
        used, wanted = self._book.ledger.used_bytes, self._settings.budget_bytes
        params: dict[str, str | int | float] = {"budget_mib": wanted // MIB, "month": self._book.ledger.month or "-"}
        found = []
        match budget.level(used, wanted):
            case Level.NEAR:
                found.append(Problem("agent.data-budget-near", params))
            case Level.SPENT:
                keys = {
                    Action.REPORT: "agent.data-budget-spent",
                    Action.TUNNEL_ONLY: "agent.data-budget-spent-lan-shut",
                    Action.STOP: "agent.data-budget-spent-stopped",
                }
                found.append(Problem(keys[self._settings.budget_action], params))
            case Level.FINE:
                pass
        if self._book.trouble is not None:
            found.append(Problem("agent.data-count-unkept", {"reason": self._book.trouble[:120]}))
        return found
