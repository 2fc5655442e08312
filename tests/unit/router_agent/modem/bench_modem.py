"""A modem under test: our code on one side of a pseudo-terminal, the lab's emulator on the other. No PPP, no root."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.modem.emulator import Emulator
from linux.runner import Finished
from router_agent.modem import modem as driver
from router_agent.modem.machine import State
from router_agent.modem.modem import Modem, ModemOptions
from router_agent.modem.pin import PinMemory
from router_agent.modem.ppp import Ended, Login
from router_agent.modem.settings import MobileSettings


@dataclass(slots=True)
class Calls:
    """Stands for pppd: a call is up until someone ends it."""

    logins: list[Login] = field(default_factory=list)
    up: bool = False
    reason: str = "no-carrier"
    total_bytes: int | None = 1000
    fails: OSError | None = None

    @property
    def pid(self) -> int | None:
        return 4711 if self.up else None

    def start(self, device: str, login: Login) -> None:
        if self.fails is not None:
            raise self.fails
        assert Path(device).exists()
        self.logins.append(login)
        self.up = True

    def ended(self) -> Ended:
        return Ended(self.reason, self.total_bytes)

    def hang_up(self) -> None:
        self.up = False

    def kill(self) -> None:
        self.up = False


@dataclass(slots=True)
class Hooks:
    """Runs the reset program: what it does to the modem is ``act``."""

    act: Callable[[], None] = lambda: None
    ran: list[list[str]] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        self.ran.append(list(argv))
        self.act()
        return Finished(0, "", "")


class Site:
    """A router's modem with a clock of its own: waiting costs no time."""

    def __init__(self, emulator: Emulator, state: Path, *, hook: Path | None = None) -> None:
        self.emulator = emulator
        self.now = 0.0
        self.linked = False
        self.calls = Calls()
        self.hooks = Hooks()
        self.settings = MobileSettings()
        self.memory = PinMemory(state)
        self.options = ModemOptions(str(emulator.link), hook=hook)
        self.seen: list[State] = []
        self.restart()

    def restart(self) -> None:
        """Another agent takes over."""
        self.modem = Modem(
            self.options, self.memory, self.calls, self.hooks, linked=lambda: self.linked, sleep=lambda _s: None
        )
        self.modem.configure(self.settings, self.now)

    def configure(self, settings: MobileSettings) -> None:
        self.settings = settings
        self.modem.configure(settings, self.now)

    @property
    def state(self) -> State:
        return self.modem.view.state

    @property
    def problems(self) -> list[str]:
        return [problem.key for problem in self.modem.problems(self.now)]

    def step(self, times: int = 1, *, spent: bool = False) -> None:
        for _ in range(times):
            self.now += max(self.modem.step(self.now, 0.5, spent=spent), 0.01)
            if self.state is State.ABSENT:
                time.sleep(0.01)  # the emulator lives in real time
            if not self.seen or self.seen[-1] is not self.state:
                self.seen.append(self.state)

    def until(self, *wanted: State, steps: int = 60, spent: bool = False) -> State:
        """Step until one of the states is reached."""
        for _ in range(steps):
            self.step(spent=spent)
            if self.state in wanted:
                return self.state
        raise AssertionError(f"{self.state} after {steps} steps, seen {self.seen}, typed {self.emulator.commands}")


def quick(monkeypatch: object) -> None:
    """Silence is noticed soon: the tests' modems are near."""
    patch = monkeypatch.setattr  # type: ignore[attr-defined]
    patch("router_agent.modem.at.ANSWER_S", 0.3)
    for name in ("_SIM_S", "_DIAL_S", "_OPERATOR_S"):
        patch(driver, name, 0.3)
